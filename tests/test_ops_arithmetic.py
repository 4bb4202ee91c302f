"""Elementwise functions, reductions and normalisations, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from reference_ops import DTYPES, assert_close, draw, group_norm, rounded

from ltx2 import ops

ELEMENTWISE = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "exp": np.exp,
    "sin": np.sin,
}
SHAPES = [(), (1,), (7,), (3, 1, 5), (2, 3, 1, 1, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise_functions_match_numpy(backend, name, shape, dtype):
    x = rounded(3 * draw(*shape), dtype)
    got = getattr(ops, name)(backend.array(x, dtype))
    assert_close(backend, got, ELEMENTWISE[name](x.astype(np.float64)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_and_sqrt_match_numpy_on_positive_values(backend, dtype):
    x = rounded(np.abs(draw(3, 1, 5)) + 0.01, dtype)
    assert_close(backend, ops.log(backend.array(x, dtype)), np.log(x), dtype)
    assert_close(backend, ops.sqrt(backend.array(x, dtype)), np.sqrt(x), dtype)


@pytest.mark.parametrize("name", ["silu", "gelu", "sigmoid", "tanh"])
def test_saturating_functions_stay_finite_far_out(backend, name):
    x = np.array([-1e4, -90.0, 90.0, 1e4], np.float32)
    got = backend.numpy(getattr(ops, name)(backend.array(x)))
    ends = {"silu": [0, 0, 90, 1e4], "gelu": [0, 0, 90, 1e4], "sigmoid": [0, 0, 1, 1]}
    np.testing.assert_allclose(got, ends.get(name, [-1, -1, 1, 1]), atol=1e-6)


def test_gelu_keeps_its_small_negative_tail_in_bfloat16(backend):
    x = rounded(np.linspace(-5, -2, 301), "bf16")
    got = backend.numpy(ops.gelu(backend.array(x, "bf16")))
    # 1 + tanh would cancel to an error of 3e-3, a tenth of the values.
    np.testing.assert_allclose(got, ELEMENTWISE["gelu"](x.astype(np.float64)), rtol=0.08, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu_scales_negative_values(backend, dtype):
    x = draw(3, 1, 5, dtype=dtype)
    got = ops.leaky_relu(backend.array(x, dtype), 0.1)
    assert_close(backend, got, np.where(x > 0, x, 0.1 * x), dtype)


@pytest.mark.parametrize("limits", [(-0.5, 0.75), (None, 0.0), (0.25, None), (None, None)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_limits_either_side(backend, limits, dtype):
    x = draw(3, 1, 5, dtype=dtype)
    low, high = limits
    want = np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)
    assert_close(backend, ops.clamp(backend.array(x, dtype), low, high), want, dtype)


@pytest.mark.parametrize("shape", [(2,), (3, 1, 5), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_std_divides_by_one_less_than_the_count(backend, shape, dtype):
    x = draw(*shape, dtype=dtype)
    got = ops.std(backend.array(x, dtype))
    assert isinstance(got, float)
    assert got == pytest.approx(x.astype(np.float64).std(ddof=1), rel=1e-5)


def test_std_of_a_long_array_far_from_zero_keeps_its_digits(backend):
    x = 100 + draw(1_000_003)
    want = x.astype(np.float64).std(ddof=1)
    assert ops.std(backend.array(x)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("axes", [(0,), (-1,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extrema_keep_the_reduced_axes(backend, axes, dtype):
    x = draw(2, 3, 1, 5, dtype=dtype)
    array = backend.array(x, dtype)
    assert_close(backend, ops.amin(array, axes), x.min(axes, keepdims=True), dtype, 0)
    assert_close(backend, ops.amax(array, axes), x.max(axes, keepdims=True), dtype, 0)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 7), (2, 1, 3, 2, 7), (2, 3, 1)])
@pytest.mark.parametrize("out", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_maps_the_last_axis(backend, shape, out, dtype):
    x, weight = draw(*shape, dtype=dtype), draw(out, shape[-1], dtype=dtype, seed=1)
    bias = draw(out, dtype=dtype, seed=2)
    a, w, b = (backend.array(v, dtype) for v in (x, weight, bias))
    want = x.astype(np.float64) @ weight.T
    assert_close(backend, ops.linear(a, w), want, dtype)
    assert_close(backend, ops.linear(a, w, b), want + bias, dtype)


@pytest.mark.parametrize("shape", [(5,), (2, 1, 7), (1, 2, 3, 64), (3, 1)])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_divides_by_the_root_mean_square(backend, shape, eps, dtype):
    x, weight = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps)
    array = backend.array(x, dtype)
    assert_close(backend, ops.rms_norm(array, eps=eps), want, dtype)
    got = ops.rms_norm(array, backend.array(weight, dtype), eps)
    assert_close(backend, got, want * weight, dtype)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_normalisations_sum_squares_in_float32(backend, dtype):
    x = rounded(600 * draw(2, 512), dtype)  # squares pass the range of float16
    wide = x.astype(np.float64)
    array = backend.array(x, dtype)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    assert_close(backend, ops.rms_norm(array), want, dtype)
    centred = wide - wide.mean(-1, keepdims=True)
    want = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    assert_close(backend, ops.layer_norm(array), want, dtype)


@pytest.mark.parametrize("shape", [(5,), (2, 1, 7), (1, 2, 3, 64)])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_centres_and_scales(backend, shape, eps, dtype):
    x = draw(*shape, dtype=dtype)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + eps)
    assert_close(backend, ops.layer_norm(backend.array(x, dtype), eps), want, dtype)


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 3, 5, 6), (2, 3, 1, 5, 6), (1, 1, 6)])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_group_norm_shares_statistics_over_positions_and_group(backend, shape, groups, dtype):
    x = draw(*shape, dtype=dtype)
    weight, bias = draw(6, dtype=dtype, seed=1), draw(6, dtype=dtype, seed=2)
    w, b = backend.array(weight, dtype), backend.array(bias, dtype)
    got = ops.group_norm(backend.array(x, dtype), groups, w, b, 1e-5)
    assert_close(backend, got, group_norm(x, groups, weight, bias, 1e-5), dtype)


@pytest.mark.parametrize("mean", [0, 5])
def test_group_norm_of_a_whole_clip_keeps_its_digits(backend, mean):
    x = mean + draw(1, 5, 41, 39, 32)
    weight, bias = draw(32, seed=1), draw(32, seed=2)
    got = ops.group_norm(backend.array(x), 2, backend.array(weight), backend.array(bias), 1e-5)
    assert_close(backend, got, group_norm(x, 2, weight, bias, 1e-5))


def test_float8_codes_round_to_the_nearest_of_their_grid(backend):
    x = np.array([0.0, 1.0, 17.0, 1.0625, -3.3, 448.0, -448.0, 2.0**-9, 0.0009], np.float32)
    want = np.array([0.0, 1.0, 16.0, 1.0, -3.25, 448.0, -448.0, 2.0**-9, 0.0], np.float32)
    codes = ops.to_fp8(backend.array(x))
    np.testing.assert_array_equal(backend.numpy(ops.from_fp8(codes)), want)
