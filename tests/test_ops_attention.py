"""Attention: both backends against NumPy, and the torch kernels against one another."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from reference_ops import DTYPES, assert_close, attention, draw

from ltx2 import ops
from ltx2.errors import UserError


def heads(dtype, n=4, n_kv=4, rows=7, keys=7, width=8, batch=2):
    return (
        draw(batch, n, rows, width, dtype=dtype, seed=1),
        draw(batch, n_kv, keys, width, dtype=dtype, seed=2),
        draw(batch, n_kv, keys, width, dtype=dtype, seed=3),
    )


def check(backend, dtype, hosts, bias=None, **options):
    arrays = [backend.array(h, dtype) for h in hosts]
    given = None if bias is None else backend.array(bias)
    got = ops.attention(*arrays, given, **options)
    assert_close(backend, got, attention(*hosts, bias, **options), dtype)


@pytest.mark.parametrize("rows, keys", [(7, 7), (1, 1), (1, 9), (9, 1), (5, 13), (33, 64)])
@pytest.mark.parametrize("width", [1, 5, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_weighs_values_by_softmax(backend, rows, keys, width, dtype):
    check(backend, dtype, heads(dtype, rows=rows, keys=keys, width=width))


@pytest.mark.parametrize("n_kv", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_key_heads_are_shared_by_neighbouring_query_heads(backend, n_kv, dtype):
    check(backend, dtype, heads(dtype, n_kv=n_kv, keys=5))
    check(backend, dtype, heads(dtype, n_kv=n_kv), draw(2, 1, 1, 7), causal=True)


@pytest.mark.parametrize("scale", [1.0, 0.03])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_replaces_the_default(backend, scale, dtype):
    check(backend, dtype, heads(dtype), scale=scale)


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_attention_sees_no_later_key(backend, rows, dtype):
    check(backend, dtype, heads(dtype, rows=rows, keys=rows), causal=True)


@pytest.mark.parametrize(
    "shape", [(6,), (5, 6), (1, 1, 5, 6), (2, 1, 1, 6), (2, 1, 5, 6), (1, 4, 5, 1), (2, 4, 5, 6)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_is_added_to_the_scores_and_broadcasts(backend, shape, dtype):
    check(backend, dtype, heads(dtype, rows=5, keys=6), draw(*shape, dtype=dtype, seed=4))


@pytest.mark.parametrize("blocked", [-np.inf, np.finfo(np.float32).min, -1e9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_blocked_key_has_no_weight(backend, blocked, dtype):
    bias = np.zeros((2, 1, 1, 7), np.float32)
    bias[0, ..., 4:] = blocked
    check(backend, dtype, heads(dtype), bias)
    check(backend, dtype, heads(dtype), bias, causal=True)


def test_half_a_mask_value_halves_the_weight(backend):
    q, k, v = (np.zeros((1, 1, 1, 2), np.float32) for _ in range(3))
    k, v = np.repeat(k, 2, 2), np.array([[[[3.0, 0], [0, 3]]]], np.float32)
    bias = np.log(np.array([1, 0.5], np.float32))
    got = ops.attention(*(backend.array(a) for a in (q, k, v)), backend.array(bias))
    assert_close(backend, got, [[[[2, 1]]]])


@pytest.fixture
def torch_backend():
    """The torch backend class; the process-wide choice of kernel is undone afterwards."""
    pytest.importorskip("torch")
    from ltx2.backends.torch import TorchBackend

    yield TorchBackend
    TorchBackend(device="cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_kv", [4, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_chunks_of_rows_agree_with_the_fused_kernel(
    torch_backend, monkeypatch, dtype, causal, n_kv, biased
):
    monkeypatch.setattr("ltx2.backends.torch_attention.BLOCK_SCORES", 40)
    hosts = heads(dtype, n_kv=n_kv, rows=10, keys=10, width=16)
    bias = draw(2, 1, 1, 10, seed=4) if biased else None
    results = {}
    for kernel in ("sdpa", "chunked"):
        backend = torch_backend(device="cpu", attention=kernel)
        given = None if bias is None else backend.array(bias)
        arrays = [backend.array(h, dtype) for h in hosts]
        results[kernel] = backend.numpy(ops.attention(*arrays, given, causal))
        check(backend, dtype, hosts, bias, causal=causal)
    limit = 1e-5 if dtype == "fp32" else 2e-2
    np.testing.assert_allclose(results["chunked"], results["sdpa"], rtol=limit, atol=limit)


@pytest.mark.parametrize("kernel, package", [("flash", "flash_attn"), ("sage", "sageattention")])
def test_an_absent_kernel_names_its_package(torch_backend, kernel, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=f"attention={kernel} needs the package '{package}'"):
        torch_backend(device="cpu", attention=kernel)


def test_an_unknown_kernel_lists_the_known_ones(torch_backend):
    with pytest.raises(UserError, match="attention=xformers is unknown; use one of auto, sdpa"):
        torch_backend(device="cpu", attention="xformers")
