"""Filling declared modules from files: strict names, shapes and dtypes; fp8 unpacked."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw

from ltx2.errors import UserError
from ltx2.nn.layers import Conv1d, Linear
from ltx2.nn.module import Param, named, slots
from ltx2.ops import Array
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.weights.build import Prefixes, load
from ltx2.weights.header import read_header


@dataclass
class Toy:
    proj: Linear
    convs: list[Conv1d]
    mean: Array = named("mean-of-means")

    @classmethod
    def declare(cls) -> Toy:
        convs = [Conv1d.declare(2, 4, 3), Conv1d.declare(4, 1, 3, bias=False)]
        return cls(Linear.declare(3, 2), convs, Param((5,), default=lambda: np.full(5, 7.0)))


def toy_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "toy.proj.weight": (2, 3),
        "toy.proj.bias": (2,),
        "toy.convs.0.weight": (4, 2, 3),
        "toy.convs.0.bias": (4,),
        "toy.convs.1.weight": (1, 4, 3),
        "toy.mean-of-means": (5,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def load_toy(path, tensors, backend, dtype="fp32", **prefixes):
    header = read_header(write_raw(path, {name: f32(x) for name, x in tensors.items()}))
    options = Prefixes(("first.", "toy."), **prefixes)
    return load(Toy.declare(), header, options, backend, dtype, "the toy")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "toy.safetensors"


def test_every_field_gets_its_tensor(path, backend):
    tensors = toy_tensors()
    toy = load_toy(path, tensors, backend)
    np.testing.assert_array_equal(backend.numpy(toy.proj.weight), tensors["toy.proj.weight"])
    np.testing.assert_array_equal(backend.numpy(toy.mean), tensors["toy.mean-of-means"])
    x = np.random.default_rng(1).standard_normal((1, 6, 2)).astype(np.float32)
    kernel, bias = tensors["toy.convs.0.weight"], tensors["toy.convs.0.bias"]
    windows = np.stack([x[0, t : t + 3] for t in range(4)])
    want = np.einsum("tkc,ock->to", windows, kernel) + bias
    np.testing.assert_allclose(backend.numpy(toy.convs[0](backend.array(x)))[0], want, atol=1e-5)


def test_all_weights_take_the_dtype_asked_for(path, backend):
    toy = load_toy(path, toy_tensors(), backend, "bf16")
    arrays = [s.value for s in slots(toy) if hasattr(s.value, "shape")]
    assert len(arrays) == 6
    assert all(str(x.dtype).endswith("bfloat16") for x in arrays)


def test_missing_tensors_are_listed_by_name(path, backend):
    tensors = toy_tensors()
    del tensors["toy.convs.0.bias"], tensors["toy.convs.1.weight"]
    names = r"2 tensors are missing: toy\.convs\.0\.bias, toy\.convs\.1\.weight"
    with pytest.raises(UserError, match=names):
        load_toy(path, tensors, backend)


def test_wrong_shape_states_both_shapes(path, backend):
    tensors = toy_tensors() | {"toy.proj.weight": np.ones((3, 2), np.float32)}
    with pytest.raises(UserError, match=r"'toy.proj.weight' \[3, 2\] instead of \[2, 3\]"):
        load_toy(path, tensors, backend)


def test_unknown_dtype_is_refused(path, backend):
    raw = {name: f32(x) for name, x in toy_tensors().items()}
    raw["toy.proj.bias"] = ("I32", (2,), bytes(8))
    raw["toy.convs.0.bias"] = ("F8_E8M0", (4,), bytes(4))
    header = read_header(write_raw(path, raw))
    with pytest.raises(UserError, match=r"'toy.proj.bias' has dtype I32, .* dtype F8_E8M0"):
        load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")


def test_defaults_stand_in_only_where_declared(path, backend):
    tensors = toy_tensors()
    del tensors["toy.mean-of-means"]
    toy = load_toy(path, tensors, backend)
    np.testing.assert_array_equal(backend.numpy(toy.mean), np.full(5, 7.0))


def test_extra_tensors_are_counted_by_prefix(path, backend, caplog):
    extra = {"toy.spare.a": 1, "toy.spare.b": 2, "toy.other.x": 3, "elsewhere.y": 4}
    tensors = toy_tensors() | {name: np.full(1, v, np.float32) for name, v in extra.items()}
    with caplog.at_level(logging.INFO, "ltx2.weights.build"):
        load_toy(path, tensors, backend, ignored=("other.",))
    assert "2 tensors not used by the toy: toy.spare.a (1), toy.spare.b (1)" in caplog.text


def test_absent_component_says_what_the_file_begins_with(golden, backend):
    header = read_header(golden / "checkpoints/lora-tiny.safetensors")
    with pytest.raises(UserError, match=r"does not hold the toy: no tensor begins with 'toy.'"):
        load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")


def test_transformer_with_a_missing_tensor_fails_by_name(golden, tmp_path, backend):
    raw, metadata = read_raw(golden / "checkpoints/ltx-2-tiny.safetensors")
    name = "model.diffusion_model.transformer_blocks.1.ff.net.2.bias"
    del raw[name]
    header = read_header(write_raw(tmp_path / "x.safetensors", raw, metadata))
    with pytest.raises(UserError, match=f"1 tensors are missing: {name}"):
        load_transformer(header, backend, "fp32")


def fp8_toy(path, scale_shape, codes):
    raw = {name: f32(x) for name, x in toy_tensors().items()}
    raw["toy.proj.weight"] = ("F8_E4M3", (2, 3), codes)
    if scale_shape is not None:
        raw["toy.proj.weight_scale"] = f32(np.full(scale_shape, 0.5))
        raw["toy.proj.input_scale"] = f32(np.float32(3.0))
    return read_header(write_raw(path, raw))


# e4m3 codes: 0x38 is 1, 0xC0 is -2, 0x7E is 448, 0x01 is 2^-9, 0x80 is -0, 0x00 is 0.
CODES, VALUES = bytes([0x38, 0xC0, 0x7E, 0x01, 0x80, 0x00]), [[1, -2, 448], [2**-9, 0, 0]]


@pytest.mark.parametrize(("scale_shape", "scale"), [((), 0.5), ((1,), 0.5), (None, 1.0)])
def test_fp8_weights_are_unpacked_with_their_scale(path, backend, scale_shape, scale):
    header = fp8_toy(path, scale_shape, CODES)
    toy = load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")
    np.testing.assert_array_equal(backend.numpy(toy.proj.weight), np.array(VALUES) * scale)


def test_fp8_scales_are_not_reported_as_extras(path, backend, caplog):
    header = fp8_toy(path, (), CODES)
    with caplog.at_level(logging.INFO, "ltx2.weights.build"):
        load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")
    assert caplog.text == ""


def test_one_fp8_scale_per_block_is_refused(path, backend):
    header = fp8_toy(path, (2, 1), CODES)
    with pytest.raises(UserError, match=r"one fp8 scale per block \[2, 1\]"):
        load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")


def test_nvfp4_is_refused_by_name(path, backend):
    raw = {name: f32(x) for name, x in toy_tensors().items()}
    raw["toy.proj.weight"] = ("U8", (2, 2), bytes(4))
    raw["toy.proj.weight_scale"] = ("F8_E4M3", (2, 1), bytes(2))
    header = read_header(write_raw(path, raw))
    with pytest.raises(UserError, match=r"'toy.proj.weight' is quantised as NVFP4"):
        load(Toy.declare(), header, Prefixes(("toy.",)), backend, "fp32", "the toy")


def test_both_backends_read_identical_float32_arrays(golden):
    from conftest import BACKENDS, make_backend

    header = read_header(golden / "checkpoints/ltx-2-tiny-fp8.safetensors")
    loaded = []
    for name in BACKENDS:
        backend = make_backend(name)
        found = slots(load_transformer(header, backend, "fp32"))
        arrays = {s.name: backend.numpy(s.value) for s in found if hasattr(s.value, "dtype")}
        loaded.append(arrays)
    assert len(loaded[0]) == 198
    for other in loaded[1:]:
        assert other.keys() == loaded[0].keys()
        for name, array in other.items():
            np.testing.assert_array_equal(array, loaded[0][name], err_msg=name)
