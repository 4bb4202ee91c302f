"""Quantised transformers: from files that are, made while loading, saved, streamed, with LoRAs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import read_raw, write_raw
from conftest import BACKENDS, make_backend
from transformer_models import streams

from ltx2.errors import UserError
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.layers import Linear
from ltx2.nn.module import slots
from ltx2.nn.quant import NvFp4Linear, QuantisedLinear, tiled_shape
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.resident import module_bytes
from ltx2.weights.checkpoint import component_of, identify
from ltx2.weights.header import read_header
from ltx2.weights.lora import apply_loras, read_lora
from ltx2.weights.quantise import STORED, UNPACKED, Quantisation, held_bytes
from ltx2.weights.quantise_file import save_quantised, save_quantised_folder
from ltx2.weights.quantise_stored import problem
from ltx2.weights.streaming import Streaming

AT_LOAD = ["fp8", "fp8-cast", "int8", "int4", "mxfp8"]
POCKET = Path(__file__).parents[1] / "ltx2" / "pocket" / "ltx-2-pocket.safetensors"
BLOCK = "model.diffusion_model.transformer_blocks.0"
# Relative error of the tiny model's output.
ERROR = {"fp8": 0.08, "fp8-cast": 0.08, "int8": 0.02, "int4": 0.25, "mxfp8": 0.08}


def tiny(golden, name="ltx-2-tiny"):
    return read_header(golden / "checkpoints" / f"{name}.safetensors")


def load(header, backend, how, dtype="fp32", **more):
    return load_transformer(header, backend, dtype, quantisation=how, **more)


def forward(backend, transformer, dtype="fp32"):
    made = transformer(*streams(backend, transformer, dtype=dtype))
    return [backend.numpy(x) for x in made]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def kinds(transformer):
    return [type(s.value) for s in slots(transformer) if isinstance(s.value, QuantisedLinear)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_float8_kept_in_memory_gives_what_unpacking_at_load_gives(backend, golden, dtype):
    header = tiny(golden, "ltx-2-tiny-fp8")
    kept, unpacked = load(header, backend, STORED, dtype), load(header, backend, UNPACKED, dtype)
    assert kinds(kept) == [Fp8Linear] * 54 and not kinds(unpacked)
    same(forward(backend, kept, dtype), forward(backend, unpacked, dtype))
    layers = [s.value for s in slots(kept) if isinstance(s.value, Fp8Linear)]
    assert all(layer.weight.nbytes == np.prod(layer.shape) for layer in layers)


@pytest.mark.parametrize("mode", AT_LOAD)
def test_quantised_at_load_saved_and_streamed_are_the_same(backend, golden, tmp_path, mode):
    header, how = tiny(golden), Quantisation(mode, 32)
    plain = forward(backend, load(header, backend, STORED))
    made = forward(backend, load(header, backend, how))
    error = np.linalg.norm(made[0] - plain[0]) / np.linalg.norm(plain[0])
    assert 1e-3 < error < ERROR[mode]
    same(made, forward(backend, load(header, backend, how, streaming=Streaming("disk", 1))))
    path = save_quantised(header, tmp_path / "saved.safetensors", how, backend, "fp32")
    saved = read_header(path)
    same(made, forward(backend, load(saved, backend, STORED)))
    same(made, forward(backend, load(saved, backend, STORED, streaming=Streaming("ram", 1))))
    unpacked = load(saved, backend, UNPACKED)
    assert not kinds(unpacked)
    for a, b in zip(forward(backend, unpacked), made, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("mode", AT_LOAD)
def test_a_saved_file_is_the_original_but_for_its_blocks(golden, tmp_path, mode):
    header = tiny(golden)
    path = save_quantised(
        header, tmp_path / "saved.safetensors", Quantisation(mode, 32), make_backend("torch")
    )
    before, after = read_raw(header.path)[0], read_raw(path)[0]
    same_names = [n for n in before if "transformer_blocks." not in n or "norm" in n]
    assert same_names and all(after[n] == before[n] for n in same_names)
    metadata = read_header(path).metadata
    assert json.loads(metadata["quantization"])["mode"] == mode
    assert metadata["config"] == header.metadata["config"]
    assert path.stat().st_size < header.file_size
    told, original = identify(read_header(path)), identify(header)
    assert told.quantisation.startswith(
        {"fp8": "scaled fp8", "fp8-cast": "plain fp8"}.get(mode, mode)
    )
    assert [p.parameters for p in told.parts] == [p.parameters for p in original.parts]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.skipif(len(BACKENDS) < 2, reason="compares the backends")
@pytest.mark.parametrize("mode", AT_LOAD)
def test_a_file_saved_by_one_backend_is_read_by_the_other(golden, tmp_path, mode):
    header, how = tiny(golden), Quantisation(mode, 32)
    for writer, reader in (("torch", "mlx"), ("mlx", "torch")):
        path = tmp_path / f"{writer}.safetensors"
        saved = read_header(save_quantised(header, path, how, make_backend(writer), "fp32"))
        made = [
            forward(backend, load(saved, backend, STORED))
            for backend in map(make_backend, (writer, reader))
        ]
        for a, b in zip(*made, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_layers_of_a_pattern_stay_and_so_do_gates(golden):
    backend, header = make_backend("torch"), tiny(golden, "ltx-2.3-tiny")
    how = Quantisation("int8", 32, keep=("transformer_blocks.0.*", "*.to_v"))
    found = {s.name: s.value for s in slots(load(header, backend, how))}
    plain = {name for name, value in found.items() if isinstance(value, Linear)}
    assert "transformer_blocks.0.attn1.to_q" in plain
    assert "transformer_blocks.1.attn1.to_v" in plain
    assert "transformer_blocks.1.attn1.to_gate_logits" in plain
    assert "patchify_proj" in plain
    assert isinstance(found["transformer_blocks.1.attn1.to_q"], QuantisedLinear)


def test_a_float8_file_can_be_quantised_otherwise(backend, golden):
    header = tiny(golden, "ltx-2-tiny-fp8")
    exact = forward(backend, load(header, backend, UNPACKED))
    made = load(header, backend, Quantisation("int8", 32))
    assert not any(kind is Fp8Linear for kind in kinds(made)) and kinds(made)
    error = np.linalg.norm(forward(backend, made)[0] - exact[0]) / np.linalg.norm(exact[0])
    assert error < ERROR["int8"]


@pytest.mark.parametrize("mode", ["none", *AT_LOAD])
def test_loras_go_on_and_off_quantised_layers(backend, golden, mode):
    header = tiny(golden, "ltx-2-tiny-fp8" if mode == "none" else "ltx-2-tiny")
    lora = read_lora(golden / "checkpoints" / "lora-tiny.safetensors")
    transformer = load(header, backend, Quantisation(mode, 32))
    before = forward(backend, transformer)
    apply_loras(transformer, [(lora, 0.8)], backend, "fp32")
    changed = forward(backend, transformer)
    apply_loras(transformer, [], backend, "fp32")
    same(forward(backend, transformer), before)
    exact = load(tiny(golden), backend, UNPACKED)
    plain = forward(backend, exact)
    apply_loras(exact, [(lora, 0.8)], backend, "fp32")
    wanted = forward(backend, exact)[0] - plain[0]
    difference = np.linalg.norm(changed[0] - before[0] - wanted) / np.linalg.norm(wanted)
    assert difference < 0.5


def test_fused_loras_are_quantised_with_float8_and_refused_by_the_rest(golden):
    backend, lora = make_backend("torch"), read_lora(golden / "checkpoints/lora-tiny.safetensors")
    beside, fused = (load(tiny(golden), backend, Quantisation("fp8")) for _ in range(2))
    apply_loras(beside, [(lora, 0.8)], backend, "fp32")
    apply_loras(fused, [(lora, 0.8)], backend, "fp32", fused=True)
    ours, theirs = forward(backend, fused)[0], forward(backend, beside)[0]
    assert 1e-4 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < ERROR["fp8"]
    with pytest.raises(UserError, match="are fused into"):
        apply_loras(fused, [], backend, "fp32")
    packed = load(tiny(golden), backend, Quantisation("int8", 32))
    with pytest.raises(UserError, match=r"quantised as int8; run them beside it \(fused=false\)"):
        apply_loras(packed, [(lora, 0.8)], backend, "fp32", fused=True)


def nvfp4_parts(out, width, seed=0):
    """Random (codes, tiled e4m3 scales) and the values they stand for, by the definition."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (out, width))
    exponents = rng.integers(-2, 3, (out, width // 16))
    rows, columns = tiled_shape(*exponents.shape)
    tiled = np.zeros(rows * columns, np.uint8)
    for (r, c), exponent in np.ndenumerate(exponents):
        tile = r // 128 * (columns // 4) + c // 4
        place = tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
        tiled[place] = (exponent + 7) << 3  # a power of two in e4m3
    magnitude = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7] * np.where(codes & 8, -1, 1)
    values = magnitude * np.repeat(2.0**exponents, 16, axis=1)
    packed = (codes[:, ::2] << 4 | codes[:, 1::2]).astype(np.uint8)
    return packed, tiled.reshape(rows, columns), values


def nvfp4_file(golden, path, scale=2.0**-5):
    """The tiny model with one NVFP4 layer, and a plain file with its values."""
    raw, metadata = read_raw(tiny(golden).path)
    name = f"{BLOCK}.attn1.to_q.weight"
    packed, tiled, values = nvfp4_parts(*raw[name][1])
    exact = raw | {name: ("F32", values.shape, (values * scale).astype("<f4").tobytes())}
    raw |= {
        name: ("U8", packed.shape, packed.tobytes()),
        f"{name}_scale": ("F8_E4M3", tiled.shape, tiled.tobytes()),
        f"{name}_scale_2": ("F32", (), np.float32(scale).tobytes()),
        f"{BLOCK}.attn1.to_q.input_scale": ("F32", (), np.float32(1).tobytes()),
    }
    other = write_raw(path.with_name("exact.safetensors"), exact, metadata)
    return read_header(write_raw(path, raw, metadata)), read_header(other)


def test_an_nvfp4_layer_is_what_its_definition_says(backend, golden, tmp_path):
    header, exact = nvfp4_file(golden, tmp_path / "model.safetensors")
    wanted = forward(backend, load(exact, backend, UNPACKED))
    kept = load(header, backend, STORED)
    assert kinds(kept) == [NvFp4Linear]
    same(forward(backend, kept), wanted)
    same(forward(backend, load(header, backend, UNPACKED)), wanted)
    streamed = load(header, backend, STORED, streaming=Streaming("disk", 1))
    same(forward(backend, streamed), wanted)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"weight_scale": None}, r"has dtype U8"),
        ({"weight_scale_2": None}, r"incomplete as NVFP4"),
        ({"weight": ("U8", (64, 16), bytes(1024))}, r"\[64, 16\] instead of \[64, 32\]"),
        ({"weight_scale": ("F8_E4M3", (64, 4), bytes(256))}, r"\[64, 4\] instead of \[128, 4\]"),
    ],
)
def test_damaged_nvfp4_is_refused_by_name(golden, tmp_path, change, line):
    header, _ = nvfp4_file(golden, tmp_path / "model.safetensors")
    raw, metadata = read_raw(header.path)
    for part, value in change.items():
        raw[f"{BLOCK}.attn1.to_q.{part}"] = value
    raw = {name: value for name, value in raw.items() if value is not None}
    header = read_header(write_raw(tmp_path / "damaged.safetensors", raw, metadata))
    with pytest.raises(UserError, match=line) as error:
        load(header, make_backend("torch"), STORED)
    assert "attn1.to_q" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["none", "unpack", *AT_LOAD])
@pytest.mark.parametrize(("dtype", "item"), [("fp32", 4), ("bf16", 2)])
def test_bytes_in_memory_are_known_before_loading(backend, golden, mode, dtype, item):
    name = "ltx-2-tiny-fp8" if mode in ("none", "unpack") else "ltx-2-tiny"
    header, how = tiny(golden, name), Quantisation(mode, 32)
    names = [n for n in header.tensors if component_of(n) == "transformer"]
    told = held_bytes(header, names, how, item)
    assert told == pytest.approx(module_bytes(load(header, backend, how, dtype)), rel=0.01)


@pytest.mark.skipif("mlx" not in BACKENDS, reason="torch on a CPU counts no memory")
def test_loading_holds_one_layer_more_than_what_stays(golden):
    backend, header = make_backend("mlx"), read_header(POCKET)
    backend.free()
    backend.reset_peak()
    before = backend.peak_bytes()
    made = load(header, backend, Quantisation("int8"), "fp32")
    held = module_bytes(made)
    largest = max(math.prod(i.shape) * 4 for n, i in header.tensors.items() if "_blocks.0." in n)
    # The layer as it is read, in float32 and as words.
    assert backend.peak_bytes() - before < held + 3 * largest
    assert held + 3 * largest < module_bytes(load(header, backend, STORED, "fp32"))


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (STORED, "'none' quantises nothing; use fp8, fp8-cast, int8, int4 or mxfp8"),
        (Quantisation("int8", keep=("*",)), "no layers in blocks"),
    ],
)
def test_saving_what_would_not_be_quantised_is_refused(golden, tmp_path, how, line):
    with pytest.raises(UserError, match=line):
        save_quantised(tiny(golden), tmp_path / "x.safetensors", how, make_backend("torch"))
    assert not list(tmp_path.iterdir())


def test_saving_over_the_source_or_from_a_quantised_file_is_refused(golden, tmp_path):
    backend, how = make_backend("torch"), Quantisation("int8", 32)
    with pytest.raises(UserError, match="is the file that is read"):
        save_quantised(tiny(golden), tiny(golden).path, how, backend)
    with pytest.raises(UserError, match="is quantised already"):
        save_quantised(tiny(golden, "ltx-2-tiny-fp8"), tmp_path / "x.safetensors", how, backend)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("int9",), r"quantisation 'int9' is unknown.* use none, unpack, fp8"),
        (("int8", 48), "quant.group_size=48 is not one of 32, 64, 128"),
    ],
)
def test_unknown_modes_and_groups_are_refused(given, line):
    with pytest.raises(UserError, match=line):
        Quantisation(*given)


@pytest.mark.parametrize("mode", ["fp8", "int4"])
def test_a_text_encoder_is_saved_with_all_its_files(backend, golden, tmp_path, mode):
    source, how = golden / "checkpoints" / "gemma-3-tiny", Quantisation(mode, 32)
    target = save_quantised_folder(source, tmp_path / "small", how, backend, "fp32")
    assert {f.name for f in target.iterdir()} == {f.name for f in source.iterdir()}
    ids = np.arange(2, 14)[None]
    made = load_gemma(read_gemma(source), backend, "fp32", how)
    saved = load_gemma(read_gemma(target), backend, "fp32", STORED)
    plain = load_gemma(read_gemma(source), backend, "fp32")
    assert kinds(made) and len(kinds(made)) == len(kinds(saved))
    ours, theirs, exact = (backend.numpy(model(ids)[-1]) for model in (made, saved, plain))
    np.testing.assert_array_equal(ours, theirs)
    assert 1e-3 < np.linalg.norm(ours - exact) / np.linalg.norm(exact) < 0.5
    with pytest.raises(UserError, match="is not empty"):
        save_quantised_folder(source, target, how, backend)


def test_float8_that_lost_its_scale_is_refused_by_name(golden, tmp_path):
    tensors, metadata = read_raw(golden / "checkpoints" / "ltx-2-tiny-fp8.safetensors")
    lost = next(name for name in tensors if name.endswith(".weight_scale"))
    left = {name: value for name, value in tensors.items() if name != lost}
    header = read_header(write_raw(tmp_path / "lost.safetensors", left, metadata))
    weight = lost.removesuffix("_scale")
    told = problem(header, weight, header.tensors[weight].shape)
    assert told == f"'{weight}' is float8 without its scale '{lost}'; download it again"
    plain = {name: value for name, value in tensors.items() if "_scale" not in name}
    header = read_header(write_raw(tmp_path / "plain.safetensors", plain, metadata))
    assert problem(header, weight, header.tensors[weight].shape) is None
