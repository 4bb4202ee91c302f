"""Neighbourhood attention in blocks, against every window by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import BACKENDS, make_backend

from ltx2 import ops
from ltx2.backends import neighbourhood, open_backend
from ltx2.errors import UserError


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(q, k, v, kernel, first):
    """One query after another, in float64."""
    lengths, out = k.shape[1:4], np.zeros(q.shape)
    for place in itertools.product(*map(range, q.shape[1:4])):
        at = (place[0] + first, *place[1:])
        starts = [
            min(max(i - n // 2, 0), m - n) for i, n, m in zip(at, kernel, lengths, strict=True)
        ]
        window = tuple(slice(s, s + n) for s, n in zip(starts, kernel, strict=True))
        keys, values = (x[:, *window].reshape(x.shape[0], -1, *x.shape[4:]) for x in (k, v))
        scores = np.einsum("bnd,bsnd->bns", q[:, *place].astype(np.float64), keys)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, *place] = np.einsum("bns,bsnd->bnd", weights, values)
    return out


CASES = [
    ((1, 3, 3, 3), (3, 3, 3)),
    ((1, 6, 5, 7), (3, 5, 5)),
    ((2, 4, 6, 9), (1, 3, 7)),
    ((1, 5, 9, 10), (2, 4, 6)),
    ((1, 2, 1, 13), (1, 1, 3)),
]


@pytest.mark.parametrize(("grid", "kernel"), CASES)
def test_every_query_sees_its_window(backend, grid, kernel):
    q, k, v = (random(i, *grid, 2, 4) for i in range(3))
    got = ops.neighbourhood_attention(*map(backend.array, (q, k, v)), kernel)
    np.testing.assert_allclose(backend.numpy(got), by_hand(q, k, v, kernel, 0), atol=1e-5)


def test_queries_may_be_some_of_the_frames(backend):
    q, k, v = (random(i, 1, 9, 5, 6, 2, 4) for i in range(3))
    part = q[:, 3:8]
    got = ops.neighbourhood_attention(*map(backend.array, (part, k, v)), (5, 3, 3), first=3)
    np.testing.assert_allclose(backend.numpy(got), by_hand(part, k, v, (5, 3, 3), 3), atol=1e-5)


def test_keys_are_gathered_in_parts(backend, monkeypatch):
    q, k, v = (backend.array(random(i, 1, 4, 4, 22, 2, 4)) for i in range(3))
    whole = backend.numpy(ops.neighbourhood_attention(q, k, v, (3, 3, 5)))
    monkeypatch.setattr(neighbourhood, "GATHERED", 1)
    parts = backend.numpy(ops.neighbourhood_attention(q, k, v, (3, 3, 5)))
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_half_precision_stays_half(backend):
    q, k, v = (random(i, 1, 4, 5, 6, 2, 8) for i in range(3))
    given = [backend.array(x, "bf16") for x in (q, k, v)]
    got = ops.neighbourhood_attention(*given, (3, 3, 3))
    assert got.dtype == given[0].dtype
    np.testing.assert_allclose(backend.numpy(got), by_hand(q, k, v, (3, 3, 3), 0), atol=0.06)


def test_a_window_larger_than_the_grid_is_refused(backend):
    x = backend.array(random(0, 1, 2, 4, 4, 1, 4))
    with pytest.raises(UserError, match="window of 3 positions does not fit into 2"):
        ops.neighbourhood_attention(x, x, x, (3, 3, 3))


@pytest.mark.skipif("torch" not in BACKENDS, reason="an option of the torch backend")
def test_the_kernel_is_chosen_by_name():
    assert make_backend("torch").describe()["neighbourhood"] == "plain"
    with pytest.raises(UserError, match=r"neighbourhood=natten needs .*use backend.neighbourhood"):
        open_backend("torch", device="cpu", neighbourhood="natten")
    with pytest.raises(UserError, match="neighbourhood=naten is unknown; use one of plain, natten"):
        open_backend("torch", device="cpu", neighbourhood="naten")
