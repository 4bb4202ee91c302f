"""Convolutions against plain loops, whole and split into pieces."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from reference_ops import DTYPES, assert_close, conv, conv_transpose1d, draw
from scipy import signal

from ltx2 import ops
from ltx2.errors import UserError


def place(backend, weight, dtype, kind="conv"):
    return backend.place(backend.array(weight, dtype), dtype, kind)


def kernel(*shape, dtype):
    """Weights scaled so that outputs have about unit size."""
    fan_in = int(np.prod(shape[1:]))
    return draw(*shape, dtype=dtype, seed=1) / 2 ** int(np.log2(fan_in) / 2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [(0, 0), (2, 2), (3, 0), (0, 1)])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv1d_matches_loops(backend, stride, pad, dilation, groups, dtype):
    x, weight = draw(2, 11, 4, dtype=dtype), kernel(8, 4 // groups, 3, dtype=dtype)
    bias = draw(8, dtype=dtype, seed=2)
    want = conv(x, weight, bias, (stride,), [pad], ["zeros"], (dilation,), groups)
    a, w, b = backend.array(x, dtype), place(backend, weight, dtype), backend.array(bias, dtype)
    assert_close(backend, ops.conv1d(a, w, b, stride, pad, dilation, groups), want, dtype)
    assert_close(backend, ops.conv1d(a, w, None, stride, pad, dilation, groups), want - bias, dtype)


def test_conv1d_matches_the_correlation_of_scipy(backend):
    x, taps = draw(23), draw(5, seed=1)
    got = ops.conv1d(backend.array(x[None, :, None]), place(backend, taps[None, None], "fp32"))
    assert_close(backend, got[0, :, 0], signal.correlate(x, taps, mode="valid"))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 7)])
@pytest.mark.parametrize("taps", [(1, 1), (3, 3), (1, 3), (2, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv2d_matches_loops_for_odd_sizes(backend, size, taps, dtype):
    x, weight = draw(2, *size, 3, dtype=dtype), kernel(5, 3, *taps, dtype=dtype)
    pads = [(t - 1, t // 2) for t in taps]
    want = conv(x, weight, None, (1, 1), pads, ["zeros"] * 2, (1, 1))
    got = ops.conv2d(backend.array(x, dtype), place(backend, weight, dtype), pad=pads)
    assert_close(backend, got, want, dtype)


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("modes", ["zeros", "edge", ("reflect", "zeros"), ("circular", "edge")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv2d_pads_each_axis_in_its_own_mode(backend, stride, groups, modes, dtype):
    x, weight = draw(1, 5, 7, 3, dtype=dtype), kernel(6, 3 // groups, 3, 3, dtype=dtype)
    bias, pads = draw(6, dtype=dtype, seed=2), [(1, 1), (0, 2)]
    names = [modes] * 2 if isinstance(modes, str) else modes
    want = conv(x, weight, bias, stride, pads, names, (1, 1), groups)
    a, w, b = backend.array(x, dtype), place(backend, weight, dtype), backend.array(bias, dtype)
    assert_close(backend, ops.conv2d(a, w, b, stride, pads, modes, groups), want, dtype)


MODES = ("zeros", "edge", "reflect", "circular")


@pytest.mark.parametrize("modes", [*MODES, *itertools.permutations(MODES, 3)], ids=str)
def test_conv3d_pads_each_axis_in_its_own_mode(backend, modes):
    x, weight, bias = draw(1, 3, 4, 5, 2), kernel(3, 2, 3, 3, 3, dtype="fp32"), draw(3, seed=2)
    pads = [(2, 0), (1, 1), (1, 2)]
    names = [modes] * 3 if isinstance(modes, str) else modes
    want = conv(x, weight, bias, (1, 1, 1), pads, names, (1, 1, 1))
    a, w, b = backend.array(x), place(backend, weight, "fp32"), backend.array(bias)
    assert_close(backend, ops.conv3d(a, w, b, pad=pads, modes=modes), want)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("size", [(1, 3, 3), (5, 4, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv3d_matches_loops_for_strides(backend, stride, size, dtype):
    x, weight = draw(2, *size, 3, dtype=dtype), kernel(2, 3, 3, 3, 3, dtype=dtype)
    pads, modes = [(2, 0), (1, 1), (1, 1)], ("edge", "zeros", "zeros")
    want = conv(x, weight, None, stride, pads, modes, (1, 1, 1))
    a, w = backend.array(x, dtype), place(backend, weight, dtype)
    assert_close(backend, ops.conv3d(a, w, None, stride, pads, modes), want, dtype)


def test_a_convolution_cannot_reflect_a_single_row(backend):
    x, weight = backend.array(draw(1, 2, 1, 4, 2)), place(backend, draw(2, 2, 1, 3, 3), "fp32")
    with pytest.raises(UserError, match="reflect padding by 1 needs more than 1 samples"):
        ops.conv3d(x, weight, pad=[(0, 0), (1, 1), (1, 1)], modes="reflect")


@pytest.mark.parametrize("stride, padding, taps", [(1, 0, 1), (2, 0, 2), (2, 1, 4), (5, 3, 11)])
@pytest.mark.parametrize("time", [1, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_convolution_adds_overlapping_kernels(
    backend, stride, padding, taps, time, dtype
):
    x, weight = draw(2, time, 3, dtype=dtype), draw(3, 4, taps, dtype=dtype, seed=1) / 2
    bias = draw(4, dtype=dtype, seed=2)
    want = conv_transpose1d(x, weight, bias, stride, padding)
    a, w = backend.array(x, dtype), place(backend, weight, dtype, "conv_transpose")
    got = ops.conv_transpose1d(a, w, backend.array(bias, dtype), stride, padding)
    assert_close(backend, got, want, dtype)
    got = ops.conv_transpose1d(a, w, None, stride, padding)
    assert_close(backend, got, want - bias, dtype)


@pytest.fixture
def pieces(backend, monkeypatch):
    """Limits the safe size to the number given and returns the shapes the kernels then see."""
    module = importlib.import_module(f"ltx2.backends.{backend.name}")
    shapes: list[tuple[int, ...]] = []

    def recording(kernel):
        def run(x, *args):
            shapes.append(tuple(x.shape))
            return kernel(x, *args)

        return run

    for rank, function in list(module._CONVOLUTIONS.items()):
        monkeypatch.setitem(module._CONVOLUTIONS, rank, recording(function))

    def limit(elements: int) -> list[tuple[int, ...]]:
        monkeypatch.setattr(module, "SAFE_ELEMENTS", elements)
        return shapes

    return limit


SPLITS = [
    # size, kernel, stride, pads, modes, limit
    ((29,), (5,), (1,), [(4, 0)], ("zeros",), 40),
    ((29,), (4,), (3,), [(2, 2)], ("reflect",), 30),
    ((9, 13), (3, 3), (1, 1), [(1, 1), (1, 1)], ("zeros", "zeros"), 100),
    ((9, 13), (3, 2), (2, 3), [(2, 0), (1, 1)], ("edge", "circular"), 60),
    ((5, 9, 8), (3, 3, 3), (1, 1, 1), [(2, 0), (1, 1), (1, 1)], ("edge", "reflect", "zeros"), 200),
    ((5, 9, 8), (3, 3, 3), (2, 2, 2), [(2, 0), (1, 1), (0, 1)], ("edge", "zeros", "zeros"), 150),
    ((1, 3, 40), (1, 3, 3), (1, 1, 1), [(0, 0), (1, 1), (1, 1)], ("zeros",) * 3, 64),
]


@pytest.mark.parametrize("size, taps, stride, pads, modes, limit", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_of_a_convolution_join_to_the_whole(
    backend, pieces, size, taps, stride, pads, modes, limit, dtype
):
    x, weight = draw(1, *size, 2, dtype=dtype), kernel(3, 2, *taps, dtype=dtype)
    bias = draw(3, dtype=dtype, seed=2)
    a, w, b = backend.array(x, dtype), place(backend, weight, dtype), backend.array(bias, dtype)

    def run():
        if len(size) == 1 and modes == ("zeros",):
            return ops.conv1d(a, w, b, stride[0], pads[0])
        if len(size) == 1:
            return ops.conv1d(ops.pad(a, [(0, 0), *pads, (0, 0)], modes[0]), w, b, stride[0])
        function = ops.conv2d if len(size) == 2 else ops.conv3d
        return function(a, w, b, stride, pads, modes)

    whole = backend.numpy(run())
    shapes = pieces(limit)
    shapes.clear()
    parts = run()
    assert len(shapes) > 1
    assert max(np.prod(s) for s in shapes) <= limit
    np.testing.assert_allclose(backend.numpy(parts), whole, rtol=1e-6, atol=1e-6)
    dilation = (1,) * len(size)
    assert_close(backend, parts, conv(x, weight, bias, stride, pads, modes, dilation), dtype)


def test_a_large_clip_is_cut_along_several_axes(backend, pieces):
    x, weight = backend.array(draw(1, 7, 9, 8, 2)), place(backend, draw(2, 2, 3, 3, 3), "fp32")
    whole = backend.numpy(ops.conv3d(x, weight))
    shapes = pieces(130)
    shapes.clear()
    parts = ops.conv3d(x, weight)
    elements = sorted(np.prod(s) for s in shapes)
    assert elements[-1] <= 130
    # Torch sees (B, C, F, H, W), MLX (B, F, H, W, C).
    space = slice(2, None) if backend.name == "torch" else slice(1, -1)
    assert all(min(s[space][axis] for s in shapes) < n for axis, n in enumerate((7, 9, 8)))
    np.testing.assert_allclose(backend.numpy(parts), whole, rtol=1e-6, atol=1e-6)


def test_dilated_and_grouped_convolutions_split_too(backend, pieces):
    x, weight = backend.array(draw(2, 41, 4)), place(backend, draw(4, 1, 3, seed=1), "fp32")
    whole = backend.numpy(ops.conv1d(x, weight, None, 2, (3, 3), 3, 4))
    shapes = pieces(120)
    shapes.clear()
    parts = backend.numpy(ops.conv1d(x, weight, None, 2, (3, 3), 3, 4))
    assert len(shapes) > 1
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)


def test_more_output_channels_than_input_count_towards_the_limit(backend, pieces):
    x, weight = backend.array(draw(1, 20, 1)), place(backend, draw(16, 1, 1), "fp32")
    shapes = pieces(100)
    shapes.clear()
    got = ops.conv1d(x, weight)
    assert len(shapes) >= 4
    assert_close(backend, got, draw(1, 20, 1) * draw(16, 1, 1)[:, 0, 0])


def test_a_convolution_within_the_limit_runs_once(backend, pieces):
    x, weight = backend.array(draw(1, 20, 2)), place(backend, draw(2, 2, 3), "fp32")
    shapes = pieces(44)  # 22 padded positions of 2 channels
    shapes.clear()
    ops.conv1d(x, weight, pad=(1, 1))
    assert len(shapes) == 1
