"""Ops that are one kernel on some backend agree with their meaning in plain ops, and train."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2 import ops
from ltx2.backends import composed
from ltx2.nn.rope import RopeOptions, rope_table

DTYPES = ("fp32", "bf16")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks and the fused products at test size."""
    pytest.importorskip("torch")
    monkeypatch.setattr("ltx2.backends.torch_fused.BLOCK", 40)
    monkeypatch.setattr("ltx2.backends.torch_fused.LARGE_PRODUCT", 0)


def agree(backend, got, want, dtype):
    limit = 1e-5 if dtype == "fp32" else 3e-2
    assert got.dtype == want.dtype
    got, want = backend.numpy(got), backend.numpy(want)
    np.testing.assert_allclose(got, want, rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((2, 5, 8), None),
        ((2, 5, 8), (1, 1, 8)),
        ((2, 5, 8), (2, 1, 8)),
        ((2, 5, 8), (1, 5, 8)),
        ((2, 3, 2, 5, 8), (2, 1, 1, 1, 8)),
        ((2, 2, 1, 7, 6), None),
    ],
)
def test_modulated_norm(backend, dtype, silu, shape, levels):
    x = backend.array(3 * draw(*shape), dtype)
    rows = (None, None)
    if levels is not None:
        rows = tuple(backend.array(draw(*levels, seed=s), dtype) for s in (1, 2))
    got = ops.norm_modulate(x, *rows, eps=1e-4, silu=silu)
    agree(backend, got, composed.norm_modulate(x, *rows, 1e-4, silu), dtype)


def test_modulation_multiplies_by_one_plus_scale_and_adds_shift(backend):
    x, scale, shift = draw(2, 5, 8), draw(2, 1, 8, seed=1), draw(2, 1, 8, seed=2)
    unit = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-4)
    want = unit * (1 + scale) + shift
    arrays = (backend.array(a) for a in (x, scale, shift))
    got = backend.numpy(ops.norm_modulate(*arrays, eps=1e-4))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("samples", [1, 2])
def test_rotated_norm(backend, dtype, split, samples):
    x = backend.array(draw(2, 7, 24), dtype)
    weight = backend.array(1 + 0.1 * draw(24), dtype)
    middle = np.abs(draw(samples, 1, 7))
    table = rope_table(middle, RopeOptions(24, 3, (8.0,), split=split), x)
    given = (weight, 1e-6, table.cos, table.sin, split)
    agree(backend, ops.norm_rotate(x, *given), composed.norm_rotate(x, *given), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_with_and_without_gelu(backend, dtype, bias):
    x, weight = backend.array(draw(2, 3, 16), dtype), backend.array(draw(5, 16, seed=1) / 4, dtype)
    added = backend.array(draw(5, seed=2), dtype) if bias else None
    product = backend.numpy(x) @ backend.numpy(weight).T
    want = product + (backend.numpy(added) if bias else 0)
    limit = 1e-5 if dtype == "fp32" else 3e-2
    got = backend.numpy(ops.linear(x, weight, added))
    np.testing.assert_allclose(got, want, rtol=limit, atol=limit)
    gelu = backend.numpy(ops.gelu(backend.array(want)))
    got = backend.numpy(ops.linear_gelu(x, weight, added))
    np.testing.assert_allclose(got, gelu, rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("time", [(2, 0), (1, 1)])
@pytest.mark.parametrize("space", ["reflect", "zeros", "edge", "circular"])
def test_norm_silu_and_convolution(backend, dtype, modulated, time, space):
    x = backend.array(draw(2, 3, 4, 5, 6), dtype)
    rows = [None, None]
    if modulated:
        rows = [backend.array(draw(2, 1, 1, 1, 6, seed=s), dtype) for s in (1, 2)]
    weight = backend.place(backend.array(draw(4, 6, 3, 3, 3, seed=3) / 13), dtype, "conv")
    bias = backend.array(draw(4, seed=4), dtype)
    pads, modes = [time, (1, 1), (1, 1)], ["edge", space, space]
    given = (*rows, 1e-8, weight, bias, pads, modes)
    got, want = ops.norm_silu_conv3d(x, *given), composed.norm_silu_conv3d(x, *given)
    assert tuple(got.shape) == (2, 3, 4, 5, 4)
    agree(backend, got, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_norm_of_strided_rows(backend, dtype):
    x = backend.array(draw(3, 8, 5), dtype).swapaxes(1, 2)
    weight = backend.array(draw(8, seed=1), dtype)
    host = backend.numpy(x)
    want = host / np.sqrt((host**2).mean(-1, keepdims=True) + 1e-6) * backend.numpy(weight)
    limit = 1e-5 if dtype == "fp32" else 3e-2
    got = backend.numpy(ops.rms_norm(x, weight))
    np.testing.assert_allclose(got, want, rtol=limit, atol=limit)


def test_training_gets_the_gradients_of_the_plain_ops():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(draw(2, 5, 12))
    weight, table = torch.from_numpy(draw(12, seed=1)), torch.from_numpy(draw(1, 5, 2, 3, seed=2))
    product, rows = torch.from_numpy(draw(12, 12, seed=3)), torch.from_numpy(draw(1, 1, 12, seed=4))

    def gradient(module):
        leaf = x.clone().requires_grad_()
        y = module.norm_modulate(leaf, rows, rows, 1e-6, True)
        y = module.norm_rotate(y, weight, 1e-6, table, table, True)
        module.linear_gelu(y, product, None).square().sum().backward()
        return leaf.grad

    got, want = gradient(ops), gradient(composed)
    assert float(want.abs().max()) > 0
    torch.testing.assert_close(got, want)
