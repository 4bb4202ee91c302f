"""Quantised layers: their values against the formats' definitions, on both backends."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import BACKENDS, make_backend

from ltx2 import ops
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.lora import Factors, Fused, LoraLinear
from ltx2.nn.quant import NvFp4Linear, PackedLinear, tiled_shape, untiled
from ltx2.weights.quantise import Quantisation

PACKED = ["int8", "int4", "mxfp8"]
# Largest error of a value, as a share of the largest of its group: half a step.
STEP = {"int8": 0.5 * 2 / 255, "int4": 0.5 * 2 / 15, "mxfp8": 2.0**-4}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def group_of(mode):
    return 32 if mode == "mxfp8" else 64


def packed(backend, weight, mode, bias=None, dtype="fp32"):
    bias = None if bias is None else backend.array(bias, dtype)
    return PackedLinear.quantised(backend.array(weight, dtype), bias, mode, group_of(mode))


@pytest.mark.parametrize("mode", PACKED)
def test_a_value_is_off_by_half_a_step_at_most(backend, mode):
    weight = draw(24, 128) * np.exp(draw(24, 1, seed=1))
    layer = packed(backend, weight, mode)
    assert layer.shape == (24, 128)
    groups = weight.reshape(24, -1, group_of(mode))
    error = np.abs(backend.numpy(layer.dequantised()).reshape(groups.shape) - groups)
    largest = np.abs(groups).max(-1, keepdims=True)
    # A step more at the far edge: zero is made a code.
    assert (error <= 1.01 * 2 * STEP[mode] * largest).all()
    assert error.mean() <= STEP[mode] * largest.mean()


@pytest.mark.parametrize("mode", PACKED)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_product_is_that_of_the_unpacked_weight(backend, mode, dtype):
    x, bias = backend.array(draw(2, 5, 128, seed=3), dtype), draw(24, seed=4)
    layer = packed(backend, draw(24, 128), mode, bias, dtype)
    weight = backend.numpy(layer.dequantised()).astype(np.float64)
    expected = backend.numpy(x) @ weight.T + backend.numpy(layer.bias)
    made = layer(x)
    assert made.dtype == x.dtype
    bound = 1e-5 if dtype == "fp32" else 0.02
    np.testing.assert_allclose(backend.numpy(made), expected, rtol=bound, atol=10 * bound)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="compares the backends")
@pytest.mark.parametrize("mode", PACKED)
def test_both_backends_make_the_same_codes(mode):
    weight = draw(16, 256) * np.exp(2 * draw(16, 1, seed=5))
    weight[3] = 0
    weight[4, :64] = 1.5
    made = [packed(make_backend(name), weight, mode) for name in ("torch", "mlx")]
    codes = [ops.to_numpy(layer.weight).view(np.uint8) for layer in made]
    np.testing.assert_array_equal(*codes)
    # A group of zeros may have any scale.
    filled = np.arange(len(weight)) != 3
    np.testing.assert_array_equal(*(ops.to_numpy(layer.scales)[filled] for layer in made))
    values = (ops.to_numpy(layer.dequantised()) for layer in made)
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def test_zero_stays_zero_in_every_mode(backend):
    weight = draw(8, 128)
    weight[:, ::3] = 0
    for mode in PACKED:
        made = backend.numpy(packed(backend, weight, mode).dequantised())
        np.testing.assert_allclose(made[:, ::3], 0, atol=1e-6)


def test_float8_without_scale_is_clamped_before_it_is_cast(backend):
    weight = backend.array(np.array([[1e4, -1e4, 0.3, 0.001]], np.float32))
    layer = Fp8Linear.cast(weight, backend.array(np.array([0.3], np.float32)))
    made = backend.numpy(layer.dequantised())
    np.testing.assert_array_equal(made, [[448, -448, 0.3125, 2.0**-9]])
    assert backend.numpy(layer.bias)[0] == 0.3125


def test_a_scaled_float8_layer_reaches_the_largest_value_exactly(backend):
    weight = draw(6, 32)
    layer = Fp8Linear.requantised(backend.array(weight), None)
    made = backend.numpy(layer.dequantised())
    place = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    np.testing.assert_allclose(made[place], weight[place], rtol=1e-6)
    assert np.abs(made - weight).max() <= np.abs(weight).max() * 2.0**-4
    zero = Fp8Linear.requantised(backend.array(np.zeros((2, 16), np.float32)), None)
    np.testing.assert_array_equal(backend.numpy(zero.dequantised()), 0)


@pytest.mark.parametrize("input_scale", [0.01, None])
def test_float8_products_round_the_activations_too(backend, input_scale):
    x, weight = draw(2, 3, 32), draw(16, 32, seed=1)
    layer = Fp8Linear.requantised(backend.array(weight), input_scale, backend.array(draw(16)))
    layer.multiplies = True
    y = backend.numpy(layer(backend.array(x)))
    exact = x @ backend.numpy(layer.dequantised()).T + draw(16)
    error = np.abs(y - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.05


def e2m1(codes):
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    return np.where(codes & 8, -1, 1) * values[codes & 7]


def test_nvfp4_follows_its_definition(backend):
    """Position and value of every element as the format says, one at a time."""
    rng, (out, width) = np.random.default_rng(0), (130, 96)
    codes = rng.integers(0, 16, (out, width))
    packed_codes = (codes[:, ::2] << 4 | codes[:, 1::2]).astype(np.uint8)
    scales = (2.0 ** rng.integers(-3, 4, (out, width // 16))).astype(np.float32)
    stored = np.zeros(tiled_shape(out, width // 16), np.float32).reshape(-1)
    across = tiled_shape(out, width // 16)[1] // 4
    for r in range(out):
        for c in range(width // 16):
            tile = (r // 128) * across + c // 4
            stored[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scales[r, c]
    tiled = backend.array(stored.reshape(tiled_shape(out, width // 16)))
    np.testing.assert_array_equal(backend.numpy(untiled(tiled, *scales.shape)), scales)
    layer = NvFp4Linear(backend.array(packed_codes), ops.to_fp8(tiled), 0.25)
    assert layer.shape == (out, width)
    expected = e2m1(codes) * np.repeat(scales, 16, axis=1) * 0.25
    np.testing.assert_array_equal(backend.numpy(layer.dequantised()), expected)
    x = backend.array(draw(3, width))
    expected = backend.numpy(x) @ expected.T
    np.testing.assert_allclose(backend.numpy(layer(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["fp8", "fp8-cast", *PACKED])
def test_a_lora_beside_a_quantised_layer_adds_its_product(backend, mode):
    base = Quantisation(mode).quantised(backend.array(draw(16, 64)), None)
    down, up = draw(4, 64, seed=1), draw(16, 4, seed=2)
    layer = LoraLinear.join(base, [Factors(backend.array(down), backend.array(up), 0.5)])
    x = backend.array(draw(3, 64, seed=3))
    added = backend.numpy(layer(x)) - backend.numpy(base(x))
    np.testing.assert_allclose(added, 0.5 * backend.numpy(x) @ (up @ down).T, rtol=1e-3, atol=1e-3)


def test_a_lora_fused_into_float8_is_quantised_with_it(backend):
    weight, down, up = draw(16, 64), draw(4, 64, seed=1), draw(16, 4, seed=2)
    base = Fp8Linear.requantised(backend.array(weight), None)
    layer = base.fused([Factors(backend.array(down), backend.array(up), 0.5)])
    assert isinstance(layer, Fused)
    wanted = backend.numpy(base.dequantised()) + 0.5 * up @ down
    error = np.abs(backend.numpy(layer.dequantised()) - wanted).max()
    assert error <= np.abs(wanted).max() * 2.0**-4


def test_a_layer_whose_width_is_no_multiple_of_the_group_stays(backend):
    weight = backend.array(draw(8, 96))
    assert isinstance(Quantisation("int8", 64).quantised(weight, None), Linear)
    assert isinstance(Quantisation("int8", 32).quantised(weight, None), PackedLinear)
