"""Recognising files, refusing the wrong ones, and the dtype policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw

from ltx2.errors import UserError
from ltx2.weights.checkpoint import check_complete, describe_kind, identify, require_kind
from ltx2.weights.dtype_policy import dtype_policy
from ltx2.weights.header import read_header

SPLIT = "ltx-2.5-tiny/"
KINDS = [
    ("ltx-2-tiny", "model", "2.0", "none"),
    ("ltx-2.3-tiny", "model", "2.3", "none"),
    ("ltx-2-tiny-fp8", "model", "2.0", "scaled fp8 (54 layers)"),
    (SPLIT + "diffusion_models/ltx-2.5-tiny-transformer", "model", "2.5", "none"),
    (SPLIT + "vae/ltx-2.5-tiny-audio-vae", "component", "2.5", "none"),
    (SPLIT + "model_patches/ltx-2.5-tiny-duration-head", "component", "2.5", "none"),
    ("lora-tiny", "lora", "unknown", "none"),
    ("spatial-upscaler-x1.5-tiny", "upsampler", "unknown", "none"),
    ("temporal-upscaler-x2-tiny", "upsampler", "unknown", "none"),
    ("gemma-3-tiny/model-00002-of-00002", "gemma shard", "unknown", "none"),
]


def header_of(golden, name):
    return read_header(golden / f"checkpoints/{name}.safetensors")


@pytest.mark.parametrize(("name", "kind", "generation", "quantised"), KINDS)
def test_kind_generation_and_quantisation_are_recognised(golden, name, kind, generation, quantised):
    identity = identify(header_of(golden, name))
    found = (identity.kind, identity.generation, identity.quantisation)
    assert found == (kind, generation, quantised)


def test_parts_count_all_tensors_and_keep_connectors_apart(golden):
    identity = identify(header_of(golden, "ltx-2-tiny"))
    parts = {part.name: part for part in identity.parts}
    assert sum(part.tensors for part in identity.parts) == 600
    assert (parts["transformer"].tensors, parts["text connectors"].tensors) == (198, 58)
    assert parts["transformer"].parameters == 357_552
    assert parts["transformer"].bytes == 2 * 357_552
    assert parts["transformer"].dtypes == (("BF16", 198),)


def test_fp8_scales_are_not_parameters(golden):
    (part,) = identify(header_of(golden, "ltx-2-tiny-fp8")).parts
    assert (part.tensors, part.parameters) == (306, 357_552)


def _renamed(golden, tmp_path, name, **metadata):
    raw, held = read_raw(golden / "checkpoints/ltx-2-tiny.safetensors")
    return read_header(write_raw(tmp_path / f"{name}.safetensors", raw, held | metadata))


def test_training_is_told_from_the_name_and_else_unknown(golden, tmp_path):
    names = {"ltx-2-19b-distilled": "distilled", "ltx-2-19b-dev": "dev", "device": "unknown"}
    told = {name: identify(_renamed(golden, tmp_path, name)).training for name in names}
    assert told == names


@pytest.mark.parametrize(
    ("version", "generation"),
    [("2.3.0-rc1", "2.3"), ("2.5", "2.5"), ("2.4-beta", "2.4"), ("next", "2.0")],
)
def test_declared_version_outranks_the_architecture(golden, tmp_path, version, generation):
    assert identify(_renamed(golden, tmp_path, "x", model_version=version)).generation == generation


def test_file_name_tells_the_generation_of_a_lora(golden, tmp_path):
    raw, metadata = read_raw(golden / "checkpoints/lora-tiny.safetensors")
    names = {
        "ltx-2.3-22b-distilled-lora-384": "2.3",
        "ltx-2-19b-lora-camera-control": "2.0",
        "LTX2.5-style": "2.5",
        "my-style": "unknown",
    }
    for name, generation in names.items():
        path = write_raw(tmp_path / f"{name}.safetensors", raw, metadata)
        assert identify(read_header(path)).generation == generation


def test_single_files_are_complete(golden):
    for name in ("ltx-2-tiny", "ltx-2.3-tiny"):
        check_complete(header_of(golden, name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora-tiny", "given as the model but is a LoRA; list it under loras instead"),
        ("spatial-upscaler-x2-tiny", "is a spatial x2 latent upsampler; give it as the upsampler"),
        ("gemma-3-tiny/model-00001-of-00002", "is a part of a Gemma text encoder; give its folder"),
        (SPLIT + "vae/ltx-2.5-tiny-audio-vae", "is a file with only audio VAE encoder"),
        ("ltx-2-tiny-fp8", "no vocoder tensors; .*no 'vocoder' in its metadata"),
    ],
)
def test_files_that_are_no_model_say_what_they_are(golden, name, words):
    with pytest.raises(UserError, match=words):
        check_complete(header_of(golden, name))


def test_nvfp4_model_is_recognised(golden, tmp_path):
    raw, metadata = read_raw(golden / "checkpoints/ltx-2-tiny.safetensors")
    stem = "model.diffusion_model.transformer_blocks.0.attn1.to_q."
    raw |= {
        f"{stem}weight": ("U8", (64, 32), bytes(2048)),
        f"{stem}weight_scale": ("F8_E4M3", (128, 4), bytes(512)),
        f"{stem}weight_scale_2": f32(np.float32(1)),
    }
    header = read_header(write_raw(tmp_path / "x.safetensors", raw, metadata))
    assert identify(header).quantisation == "nvfp4"
    check_complete(header)


def test_one_scale_per_block_is_refused(golden, tmp_path):
    raw, metadata = read_raw(golden / "checkpoints/ltx-2-tiny.safetensors")
    stem = "model.diffusion_model.transformer_blocks.0.attn1.to_q."
    raw |= {
        f"{stem}weight": ("F8_E4M3", (64, 64), bytes(4096)),
        f"{stem}weight_scale": ("F32", (2, 2), bytes(16)),
    }
    header = read_header(write_raw(tmp_path / "x.safetensors", raw, metadata))
    with pytest.raises(UserError, match="quantised as blockwise fp8, which is not supported"):
        check_complete(header)


def test_wrong_upsampler_is_named(golden):
    require_kind(header_of(golden, "temporal-upscaler-x2-tiny"), "upsampler", "the upsampler")
    header = header_of(golden, "ltx-2.3-tiny")
    with pytest.raises(UserError, match=r"but is an LTX-2.3 model file; give it as the model"):
        require_kind(header, "upsampler", "the upsampler")


def test_unrelated_file_is_unknown(tmp_path):
    header = read_header(write_raw(tmp_path / "x.safetensors", {"weight": f32(np.ones(3))}))
    assert identify(header).kind == "unknown"
    assert describe_kind(header) == "not a kind of file this program knows"


@dataclass
class Device:
    kind: str
    fast_bf16: bool = True


@pytest.mark.parametrize(
    ("device", "transformer", "text_encoder", "video_vae"),
    [
        (Device("cuda"), "bf16", "bf16", "bf16"),
        (Device("mps"), "bf16", "bf16", "fp32"),
        (Device("metal"), "bf16", "bf16", "bf16"),
        (Device("cpu", True), "bf16", "bf16", "bf16"),
        (Device("cpu", False), "fp32", "fp32", "fp32"),
    ],
)
def test_auto_follows_the_device(device, transformer, text_encoder, video_vae):
    policy = dtype_policy(device)
    found = (policy["transformer"], policy["text_encoder"], policy["video_vae"])
    assert found == (transformer, text_encoder, video_vae)
    assert policy["vocoder"] == "fp32"


def test_auto_on_a_real_backend_is_float32_unless_bf16_is_fast(backend):
    assert dtype_policy(backend)["transformer"] == ("bf16" if backend.fast_bf16 else "fp32")


def test_explicit_dtype_reaches_all_but_the_vocoder():
    policy = dtype_policy(Device("cpu", False), "bf16", {"video_vae": "fp32", "upsampler": "auto"})
    assert {name for name, dtype in policy.items() if dtype == "fp32"} == {"vocoder", "video_vae"}


def test_text_encoder_keeps_bf16_under_fp16():
    policy = dtype_policy(Device("mps"), "fp16")
    assert (policy["transformer"], policy["text_encoder"]) == ("fp16", "bf16")


@pytest.mark.parametrize(
    ("kind", "dtype", "overrides", "words"),
    [
        ("cpu", "fp16", {}, "dtype=fp16 does not work on a CPU; use fp32 or bf16"),
        ("cpu", "auto", {"transformer": "fp16"}, "dtype.transformer=fp16 does not work on a CPU"),
        ("cuda", "auto", {"text_encoder": "fp16"}, "text_encoder=fp16 overflows"),
        ("cuda", "auto", {"vocoder": "bf16"}, "the vocoder runs in fp32"),
        ("cuda", "bf61", {}, "dtype=bf61 is not one of .*did you mean 'bf16'"),
        ("cuda", "auto", {"transfomer": "bf16"}, "did you mean 'transformer'"),
    ],
)
def test_impossible_dtypes_are_refused(kind, dtype, overrides, words):
    with pytest.raises(UserError, match=words):
        dtype_policy(Device(kind), dtype, overrides)
