"""Ops that create, convert, move and pad arrays, against NumPy."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest
from reference_ops import DTYPES, assert_close, draw, pad

from ltx2 import ops
from ltx2.errors import UserError


def test_every_op_has_an_implementation_in_each_backend(backend):
    module = importlib.import_module(f"ltx2.backends.{backend.name}")
    names = {
        name
        for name, value in inspect.getmembers(ops, inspect.isfunction)
        if value.__module__ == ops.__name__ and not name.startswith("_")
    }
    no_ops = {"view_backends"}
    missing = (names - no_ops - {"conv1d", "conv2d", "conv3d"} | {"conv"}) - set(dir(module))
    assert not missing


def test_a_numpy_array_is_no_backend_array():
    with pytest.raises(TypeError, match="ndarray is not an array of a known backend"):
        ops.silu(np.zeros(3))


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_])
def test_asarray_keeps_the_host_dtype_and_values(backend, kind):
    host = np.array([[0, 1, 5], [7, 2, 1]]).astype(kind)
    got = ops.to_numpy(ops.asarray(host, backend.array(np.zeros(1))))
    assert got.dtype == (np.float32 if kind is np.float16 else kind)
    np.testing.assert_array_equal(got, host)


def test_asarray_narrows_float64_to_float32(backend):
    ref = backend.array(np.zeros(1), "bf16")
    assert_close(backend, ops.asarray(np.array([1 / 3]), ref), [1 / 3])


@pytest.mark.parametrize("make", [lambda x: x[::-1], lambda x: x.T, lambda x: x[1, 1]])
def test_asarray_takes_any_memory_layout_and_rank(backend, make):
    host = make(draw(3, 4))
    assert_close(backend, ops.asarray(np.asarray(host), backend.array(np.zeros(1))), host)


def test_arrays_do_not_share_memory_with_the_host(backend):
    host = np.ones(3, np.float32)
    x, y = backend.array(host), ops.asarray(host, backend.array(host))
    back = ops.to_numpy(x)
    host[:], back[:] = 5, 7
    assert_close(backend, x, np.ones(3))
    assert_close(backend, y, np.ones(3))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_backend_array_casts_floats_and_keeps_integers_and_booleans(backend, dtype):
    assert_close(backend, backend.array(np.array([0.5, -2.0]), dtype), [0.5, -2], dtype)
    for host in (np.array([3, -1]), np.array([True, False])[::-1]):
        got = backend.numpy(backend.array(host, dtype))
        assert got.dtype == host.dtype
        np.testing.assert_array_equal(got, host)


def test_half_precision_comes_back_as_float32(backend):
    for dtype in ("bf16", "fp16"):
        got = ops.to_numpy(backend.array(np.array([1.5, -3.0]), dtype))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, [1.5, -3])


def test_f32_and_like_convert_there_and_back(backend):
    x = backend.array(draw(3, 1, dtype="bf16"), "bf16")
    wide = ops.f32(x)
    assert_close(backend, wide, ops.to_numpy(x))
    assert_close(backend, ops.like(wide, x), ops.to_numpy(x), "bf16", 0)


def test_like_turns_integers_into_floats_and_floats_into_truncated_integers(backend):
    counts, ref = backend.array(np.array([3, -2])), backend.array(np.zeros(1), "bf16")
    assert_close(backend, ops.like(counts, ref), [3, -2], "bf16")
    whole = ops.like(backend.array(np.array([1.7, -1.7])), counts)
    assert whole.dtype == counts.dtype
    np.testing.assert_array_equal(ops.to_numpy(whole), [1, -1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_take_the_dtype_of_the_reference(backend, dtype):
    ref = backend.array(np.ones(2), dtype)
    assert_close(backend, ops.zeros((2, 1, 3), ref), np.zeros((2, 1, 3)), dtype)


def test_settling_leaves_values_alone(backend):
    x = backend.array(draw(3))
    for index in range(17):
        x = x + 1
        ops.settle(index, x)
    assert_close(backend, x, draw(3) + 17)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_picks_by_condition_and_broadcasts(backend, dtype):
    a, b = draw(2, 3, dtype=dtype), draw(1, 3, dtype=dtype, seed=1)
    condition = np.array([[True], [False]])
    got = ops.where(backend.array(condition), backend.array(a, dtype), backend.array(b, dtype))
    assert_close(backend, got, np.where(condition, a, b), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_with_a_number_keeps_the_dtype(backend, dtype):
    a = draw(2, 3, dtype=dtype)
    got = ops.where(backend.array(a > 0), backend.array(a, dtype), -2.5)
    assert_close(backend, got, np.where(a > 0, a, -2.5), dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_concat_and_stack_join_along_the_axis(backend, axis, dtype):
    hosts = [draw(2, 1, 3, dtype=dtype, seed=s) for s in range(3)]
    arrays = [backend.array(h, dtype) for h in hosts]
    assert_close(backend, ops.concat(arrays, axis), np.concatenate(hosts, axis), dtype)
    assert_close(backend, ops.stack(arrays, axis), np.stack(hosts, axis), dtype)


def test_concat_joins_unequal_lengths(backend):
    hosts = [draw(2, n, 3, seed=n) for n in (4, 1, 2)]
    got = ops.concat([backend.array(h) for h in hosts], 1)
    assert_close(backend, got, np.concatenate(hosts, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_to_repeats_axes_of_one(backend, dtype):
    x = draw(1, 3, 1, dtype=dtype)
    got = ops.broadcast_to(backend.array(x, dtype), (2, 4, 3, 5))
    assert_close(backend, got, np.broadcast_to(x, (2, 4, 3, 5)), dtype)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("index", [1, [0], [1, 0, 1], [[-1, 0], [1, -2]], np.zeros(0, int)])
def test_take_gathers_at_indices_of_any_rank_and_sign(backend, axis, index):
    x, index = draw(2, 3, 2), np.asarray(index)
    assert_close(backend, ops.take(backend.array(x), index, axis), np.take(x, index, axis))


def test_take_accepts_indices_on_the_device(backend):
    x, index = draw(4, 3), np.array([[3, 0], [1, 1]])
    got = ops.take(backend.array(x), backend.array(index), 0)
    assert_close(backend, got, x[index])


@pytest.mark.parametrize("kind", [np.bool_, np.int64, np.uint8])
def test_take_keeps_booleans_and_integers(backend, kind):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    got = ops.to_numpy(ops.take(backend.array(x), np.array([2, -3]), -1))
    assert got.dtype == kind
    np.testing.assert_array_equal(got, x[:, [2, 0]])


@pytest.mark.parametrize("index", [3, -4])
def test_take_beyond_the_end_is_an_error(backend, index):
    with pytest.raises(IndexError, match="outside an axis of length 3"):
        ops.take(backend.array(draw(2, 3)), np.array([0, index]), 1)


@pytest.mark.parametrize("mode", ["zeros", "edge", "reflect", "circular"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pad_extends_one_axis_on_either_side(backend, mode, axis, dtype):
    x = draw(3, 4, 5, dtype=dtype)
    for width in ((2, 1), (0, 2), (1, 0), (0, 0)):
        widths = [width if a == axis else (0, 0) for a in range(3)]
        want = pad(x, widths, [mode] * 3)
        assert_close(backend, ops.pad(backend.array(x, dtype), widths, mode), want, dtype, 0)


@pytest.mark.parametrize(
    "modes",
    [
        ("edge", "reflect", "zeros"),
        ("zeros", "edge", "circular"),
        ("reflect", "zeros", "edge"),
        ("circular", "circular", "reflect"),
    ],
)
def test_pad_mixes_modes_by_axis_in_the_corners_too(backend, modes):
    x, widths = draw(3, 4, 5), [(1, 2), (2, 0), (3, 1)]
    assert_close(backend, ops.pad(backend.array(x), widths, modes), pad(x, widths, modes))


def test_edge_and_circular_padding_may_be_wider_than_the_axis(backend):
    x, widths = draw(1, 3), [(2, 0), (4, 5)]
    for mode in ("edge", "circular"):
        got = ops.pad(backend.array(x), widths, mode)
        assert_close(backend, got, pad(x, widths, [mode] * 2))


def test_reflection_wider_than_the_axis_is_refused(backend):
    with pytest.raises(UserError, match="needs more than 1 samples along the axis, which has 1"):
        ops.pad(backend.array(draw(1, 4)), [(0, 1), (0, 0)], "reflect")


def test_unknown_padding_mode_lists_the_known_ones(backend):
    with pytest.raises(UserError, match="'mirror' is unknown; use one of zeros, edge"):
        ops.pad(backend.array(draw(2, 4)), [(0, 1), (0, 0)], "mirror")


def test_flattening_a_swapped_array_gives_row_major_order(backend):
    x = draw(2, 3, 4)
    got = ops.flatten_contiguous(backend.array(x).swapaxes(0, 2))
    assert_close(backend, got, x.swapaxes(0, 2))
    assert_close(backend, got.reshape(-1), x.swapaxes(0, 2).reshape(-1))
