"""Backend objects: devices, loading, layouts, random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from reference_ops import assert_close, draw
from safetensors.numpy import save_file

from ltx2 import ops
from ltx2.backends import installed, open_backend
from ltx2.errors import UserError


def test_a_backend_opens_by_name_with_its_options(backend):
    opened = open_backend(backend.name, device="cpu")
    assert type(opened) is type(backend)
    assert opened.kind == "cpu"
    assert backend.name in installed()


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(UserError, match=r"backend=trch is unknown; use torch or mlx; .*'torch'"):
        open_backend("trch")


def test_a_missing_device_lists_those_that_are_there(backend):
    with pytest.raises(UserError, match=r"device=tpu is not available here; use .*auto.*cpu"):
        open_backend(backend.name, device="tpu")


def test_the_description_says_what_a_report_needs(backend):
    description = backend.describe()
    assert description["backend"] == backend.name
    assert description["device"] == "cpu"
    assert description["fast_bf16"] == backend.fast_bf16
    assert description["version"][0].isdigit()


@pytest.mark.parametrize("name", ["model.safetensors", "blob-without-a-suffix"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stored_tensor_is_read_by_name_and_placed(backend, tmp_path, name, dtype):
    stored = {"a.weight": draw(3, 2, dtype=dtype), "b": draw(5).astype(np.float16)}
    save_file(stored, tmp_path / name)
    file = backend.open(str(tmp_path / name))
    assert_close(backend, backend.place(file.get("a.weight"), dtype), stored["a.weight"], dtype)
    assert_close(backend, backend.place(file.get("b"), "fp32"), stored["b"])


def test_scaled_fp8_codes_decode_to_their_values(backend, golden):
    from ltx2.weights.header import read_header

    header = read_header(golden / "checkpoints/ltx-2-tiny-fp8.safetensors")
    name = next(n for n, info in header.tensors.items() if info.dtype == "F8_E4M3")
    got = backend.numpy(backend.decode_fp8(backend.open(str(header.path)).get(name)))
    info = header.tensors[name]
    codes = _stored_bytes(header.path, name)
    np.testing.assert_array_equal(got, _e4m3(codes).reshape(info.shape))


def _stored_bytes(path, name) -> np.ndarray:
    import json

    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    first, last = json.loads(raw[8 : 8 + size])[name]["data_offsets"]
    return np.frombuffer(raw[8 + size + first : 8 + size + last], np.uint8)


def _e4m3(codes: np.ndarray) -> np.ndarray:
    """Sign, 4 exponent bits with bias 7, 3 mantissa bits; exponent zero is subnormal."""
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes >> 3 & 15).astype(int), (codes & 7) / 8
    normal = (1 + mantissa) * 2.0 ** (exponent - 7)
    return (sign * np.where(exponent == 0, mantissa * 2.0**-6, normal)).astype(np.float32)


def test_device_draws_repeat_for_a_seed_and_differ_between_seeds(backend):
    first, again, other = (backend.numpy(backend.normal((50, 40), s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert abs(first.mean()) < 0.1
    assert abs(first.std() - 1) < 0.1


def test_memory_calls_do_not_disturb_values(backend):
    x = backend.array(draw(4))
    backend.reset_peak()
    y = ops.exp(x)
    backend.synchronize()
    backend.free()
    peak = backend.peak_bytes()
    assert peak is None or peak >= 0
    assert_close(backend, y, np.exp(draw(4)))
