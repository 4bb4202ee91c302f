"""`ltx2 convert`: layouts there and back, merged LoRAs, components, and what diffusers reads."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import read_raw, write_raw, write_sparse
from conftest import GOLDEN, make_backend

from ltx2 import ops
from ltx2.app.commands.convert import main
from ltx2.app.compose import compose
from ltx2.errors import MissingFile, UserError
from ltx2.nn.fp8 import Fp8Linear
from ltx2.nn.module import slots
from ltx2.pipelines.components.audio import (
    audio_config,
    load_audio_decoder,
    load_vocoder,
    vocoder_config,
)
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.components.preflight import fit
from ltx2.pipelines.components.transformer import load_transformer, transformer_config
from ltx2.pipelines.components.video import decoder_config, load_video_decoder
from ltx2.pipelines.planning import make_plan
from ltx2.weights.convert import REST, read_model
from ltx2.weights.header import read_header
from ltx2.weights.lora import apply_loras
from ltx2.weights.lora_file import read_lora
from ltx2.weights.quantise import AS_STORED, Quantisation

FILES = GOLDEN / "checkpoints"
WHOLE = {name: FILES / f"{name}.safetensors" for name in ("ltx-2-tiny", "ltx-2.3-tiny")}
SPLIT = FILES / "ltx-2.5-tiny"
PARTS_2_5 = [
    SPLIT / "diffusion_models/ltx-2.5-tiny-transformer.safetensors",
    SPLIT / "vae/ltx-2.5-tiny-video-vae-conv.safetensors",
    SPLIT / "vae/ltx-2.5-tiny-audio-vae.safetensors",
    SPLIT / "model_patches/ltx-2.5-tiny-duration-head.safetensors",
]
# diffusers' class of each folder; the vocoder's depends on the generation.
CLASSES = {
    "transformer": ("diffusers", "LTX2VideoTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLLTX2Video"),
    "audio_vae": ("diffusers", "AutoencoderKLLTX2Audio"),
    "connectors": ("diffusers.pipelines.ltx2", "LTX2TextConnectors"),
    "vocoder": ("diffusers.pipelines.ltx2", None),
}


def convert(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def content(*paths: Path) -> dict[str, tuple]:
    """dtype, shape and digest of every tensor, under its name in a single file."""
    found = {}
    for path in paths:
        header, data = read_header(path), path.read_bytes()
        for name, info in header.tensors.items():
            start = header.data_start + info.start
            digest = hashlib.sha1(data[start : header.data_start + info.stop]).hexdigest()
            bare = name.startswith(("encoder.", "decoder.", "per_channel"))
            found[f"vae.{name}" if bare else name] = (info.dtype, info.shape, digest)
    return found


@pytest.fixture(scope="module", params=WHOLE)
def folder(request, tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint and the folder of diffusers made of it."""
    made = tmp_path_factory.mktemp("diffusers") / request.param
    convert(WHOLE[request.param], made, "--to", "diffusers")
    return WHOLE[request.param], made


def diffusers_model(folder: Path, part: str):
    """The model that diffusers makes of a folder, which must hold exactly what it wants."""
    module, name = CLASSES[part]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = importlib.import_module(module)
        told = json.loads((folder / part / "config.json").read_text())["_class_name"]
        model, info = getattr(library, name or told).from_pretrained(
            folder / part, output_loading_info=True
        )
    assert not any(info.values()), info
    return model.eval()


def test_a_file_becomes_diffusers_folder_and_the_same_file_again(folder, tmp_path):
    source, made = folder
    convert(made, tmp_path / "back.safetensors")
    assert content(tmp_path / "back.safetensors") == content(source)
    assert read_header(tmp_path / "back.safetensors").metadata == read_header(source).metadata


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_becomes_parts_and_the_same_file_again(name, tmp_path):
    convert(WHOLE[name], tmp_path / "parts", "--to", "split")
    parts = sorted((tmp_path / "parts").iterdir())
    assert [part.name.removeprefix(f"{name}-") for part in parts] == [
        "audio-vae.safetensors", "transformer.safetensors", "video-vae.safetensors",
    ]  # fmt: skip
    convert(*parts, tmp_path / "back.safetensors")
    assert content(tmp_path / "back.safetensors") == content(WHOLE[name])
    assert read_header(tmp_path / "back.safetensors").metadata == read_header(WHOLE[name]).metadata


def test_published_parts_become_one_file_and_parts_again(tmp_path):
    convert(*PARTS_2_5, tmp_path / "whole.safetensors")
    whole = read_header(tmp_path / "whole.safetensors")
    assert content(whole.path) == content(*PARTS_2_5)
    own = read_header(PARTS_2_5[1]).config["vae"]
    assert whole.config["vae"] == own and whole.metadata["model_version"].startswith("2.5")
    assert fit(whole).problems == ()
    convert(whole.path, tmp_path / "parts", "--to", "split")
    assert content(*(tmp_path / "parts").iterdir()) == content(*PARTS_2_5)


def test_the_parts_of_a_whole_file_run_as_a_model(tmp_path):
    convert(WHOLE["ltx-2.3-tiny"], tmp_path / "parts", "--to", "split")
    stem = tmp_path / "parts/ltx-2.3-tiny"
    files = {
        "checkpoint": f"{stem}-transformer.safetensors",
        "video_vae": f"{stem}-video-vae.safetensors",
        "audio_vae": f"{stem}-audio-vae.safetensors",
        "text_encoder": FILES / "gemma-3-tiny",
        "spatial_upscaler": FILES / "spatial-upscaler-x2-tiny.safetensors",
    }
    named = [f"model.files.{role}.file={path}" for role, path in files.items()]
    options = ["model=path", "model.kind=any", "pipeline=distilled", "frames=9", "dtype=fp32"]
    assert make_plan(compose([*options, *named, "height=64", "width=64"])).frames == 9


@pytest.mark.parametrize("part", CLASSES)
def test_diffusers_loads_every_folder_completely(folder, part):
    assert diffusers_model(folder[1], part) is not None


def test_a_folder_that_diffusers_wrote_becomes_a_file(folder, tmp_path):
    source, made = folder
    for part in CLASSES:
        diffusers_model(made, part).save_pretrained(tmp_path / "theirs" / part)
    (tmp_path / "theirs" / "model_index.json").write_text("{}")
    convert(tmp_path / "theirs", tmp_path / "back.safetensors")
    back, original = read_header(tmp_path / "back.safetensors"), read_header(source)
    assert fit(back).problems == () and fit(back).tensors == fit(original).tensors
    for read in (transformer_config, audio_config, vocoder_config, decoder_config):
        assert read(back) == read(original)
    assert back.model_version == original.model_version


def torch_result(header, load, call, *inputs):
    """What our module makes of NumPy inputs, in float32 on torch."""
    backend = make_backend("torch")
    module = load(header, backend)
    return ops.to_numpy(call(module, *(backend.array(x) for x in inputs)))


def test_the_video_decoders_of_both_libraries_agree(folder):
    import torch

    source, made = folder
    latent = np.random.default_rng(0).standard_normal((1, 2, 2, 3, 16)).astype(np.float32)
    header = read_header(source)
    ours = torch_result(
        header, lambda h, b: load_video_decoder(h, b, "fp32"), lambda m, x: m(x), latent
    )
    vae = diffusers_model(made, "vae").float()
    theirs = latent * vae.latents_std.numpy() + vae.latents_mean.numpy()
    with torch.no_grad():
        theirs = vae.decode(torch.from_numpy(theirs).permute(0, 4, 1, 2, 3), return_dict=False)[0]
    theirs = theirs.permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_the_vocoders_of_both_libraries_agree(folder):
    import torch

    source, made = folder
    mel = np.random.default_rng(1).standard_normal((1, 6, 64, 2)).astype(np.float32)
    ours = torch_result(read_header(source), load_vocoder, lambda m, x: m(x), mel)
    with torch.no_grad():
        theirs = diffusers_model(made, "vocoder").float()(torch.from_numpy(mel).permute(0, 3, 1, 2))
    theirs = theirs.numpy().transpose(0, 2, 1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_audio_decoders_of_both_libraries_agree(folder):
    import torch

    source, made = folder
    latent = np.random.default_rng(2).standard_normal((1, 3, 16, 2)).astype(np.float32)
    header = read_header(source)
    ours = torch_result(
        header, lambda h, b: load_audio_decoder(h, b, "fp32"), lambda m, x: m(x), latent
    )
    vae = diffusers_model(made, "audio_vae").float()
    tokens = latent.transpose(0, 1, 3, 2).reshape(1, 3, 32)
    tokens = tokens * vae.latents_std.numpy() + vae.latents_mean.numpy()
    given = torch.from_numpy(tokens.reshape(1, 3, 2, 16)).permute(0, 2, 1, 3)
    with torch.no_grad():
        theirs = vae.decode(given.float(), return_dict=False)[0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["ltx-2-tiny", "ltx-2-tiny-fp8"])
def test_a_merged_lora_is_what_fusing_at_load_gives(name, backend, tmp_path):
    source = FILES / f"{name}.safetensors"
    lora = FILES / "lora-tiny.safetensors"
    target = tmp_path / "merged.safetensors"
    convert(source, target, "--lora", f"{lora}:0.7", "--backend", backend.name)
    plain = load_transformer(
        read_header(source), backend, "bf16", quantisation=Quantisation(AS_STORED)
    )
    apply_loras(plain, [(read_lora(lora), 0.7)], backend, "bf16", fused=True)
    merged = load_transformer(read_header(target), backend, "bf16")
    fused, written = ({slot.name: slot.value for slot in slots(m)} for m in (plain, merged))
    for pair in read_lora(lora).pairs:
        layer = fused[pair.module]
        value = layer.dequantised() if isinstance(layer, Fp8Linear) else layer.weight
        value = backend.place(value, "bf16")
        np.testing.assert_array_equal(
            ops.to_numpy(written[pair.module].weight), ops.to_numpy(value)
        )
    assert read_header(target).metadata["merged_loras"] == "lora-tiny.safetensors 0.7"
    before, after = content(source), content(target)
    changed = {
        name.removeprefix("model.diffusion_model.")
        for name in before
        if before[name] != after[name]
    }
    assert before.keys() == after.keys()
    assert {name.removesuffix("_scale").removesuffix(".weight") for name in changed} == {
        pair.module for pair in read_lora(lora).pairs
    }


@pytest.mark.parametrize(
    ("component", "prefixes"),
    [
        ("video-vae", ("vae.",)),
        ("vocoder", ("vocoder.",)),
        ("connectors", ("text_embedding_projection.", "model.diffusion_model.")),
    ],
)
def test_a_component_is_written_alone(component, prefixes, tmp_path):
    convert(WHOLE["ltx-2.3-tiny"], tmp_path / "one.safetensors", "--component", component)
    made, whole = content(tmp_path / "one.safetensors"), content(WHOLE["ltx-2.3-tiny"])
    assert made and all(name.startswith(prefixes) for name in made)
    assert made.items() <= whole.items() and "transformer_blocks" not in "".join(made)


def test_a_component_that_is_not_there_names_those_that_are(tmp_path):
    told = "holds no duration-head; it holds transformer, connectors, video-vae"
    with pytest.raises(UserError, match=told):
        convert(WHOLE["ltx-2-tiny"], tmp_path / "x.safetensors", "--component", "duration-head")


def test_a_quantised_file_is_written(tmp_path):
    source = WHOLE["ltx-2-tiny"]
    convert(source, tmp_path / "small.safetensors", "--quantise", "fp8", "--backend", "torch")
    dtypes = {info.dtype for info in read_header(tmp_path / "small.safetensors").tensors.values()}
    assert "F8_E4M3" in dtypes


def test_a_text_encoder_is_quantised_into_a_folder_that_needs_no_other(backend, tmp_path):
    source, small = tmp_path / "gemma", tmp_path / "gemma-int8"
    shutil.copytree(FILES / "gemma-3-tiny", source)
    arguments = ["--quantise", "int8", "--group", "32", "--backend", backend.name]
    convert(source, small, *arguments)
    how, ids = Quantisation("int8", 32), np.array([[2, 40, 300, 7, 199]], np.int32)
    # Scales of a saved file are rounded to bf16, and so are the weights before.
    expected = backend.numpy(load_gemma(read_gemma(source), backend, "bf16", how)(ids)[-1])
    shutil.rmtree(source)
    states = load_gemma(read_gemma(small), backend, "bf16", Quantisation(AS_STORED))(ids)
    np.testing.assert_array_equal(backend.numpy(states[-1]), expected)
    assert not list(tmp_path.glob("*.partial"))


def test_a_large_file_is_copied_with_little_memory(tmp_path):
    shapes = {f"model.diffusion_model.block.{n}.weight": ("BF16", (1 << 26,)) for n in range(2)}
    source = write_sparse(tmp_path / "large.safetensors", shapes, {"config": "{}"})
    tracemalloc.start()
    convert(source, tmp_path / "copy.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "copy.safetensors").stat().st_size > 1 << 28
    assert peak < 1 << 26


def test_a_file_larger_than_the_disk_is_refused_before_it_is_begun(tmp_path):
    shapes = {"model.diffusion_model.weight": ("BF16", (1 << 42,))}
    try:
        source = write_sparse(tmp_path / "huge.safetensors", shapes, {"config": "{}"})
    except OSError:
        pytest.skip("this file system has no sparse files of that size")
    with pytest.raises(UserError, match=r"the file needs 8796\.1 GB .* GB are missing"):
        convert(source, tmp_path / "copy.safetensors")
    assert not (tmp_path / "copy.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{whole}", "{whole}"], "is read; give the result another name"),
        (["{tmp}/no.safetensors", "{tmp}/x.safetensors"], "no.safetensors does not exist"),
        (["{whole}", "{tmp}/folder"], "for a folder add --to split or diffusers"),
        (["{tmp}", "{tmp}/x.safetensors"], "is no folder of diffusers"),
        (["{whole}", "{lora}", "{tmp}/x.safetensors"], "is a LoRA, no part of a model"),
        (["{whole}", "{whole}", "{tmp}/x.safetensors"], "is in two of the files"),
        (["{fp8}", "{tmp}/d", "--to", "diffusers"], "quantised .* start from the bf16 file"),
        (["{whole}", "{tmp}/x.safetensors", "--lora", "{upscaler}"], "given as a LoRA but is"),
        (["{vae}", "{tmp}/x.safetensors", "--lora", "{lora}"], "holds no transformer"),
        (["{whole}", "{tmp}/x.safetensors", "--quantise", "int3"], "int3' is unknown"),
        (["{whole}", "{tmp}/small", "--quantise", "int8"], "does not end in .safetensors"),
        (["{tmp}", "{tmp}/small", "--quantise", "int8"], "has no config.json; download the whole"),
        (["{gemma}", "{tmp}/x.safetensors"], "is a text encoder's folder, .* add --quantise MODE"),
        (
            ["{2_5}", "{tmp}/d", "--to", "diffusers"],
            "is LTX-2.5, of which .* use --to single or split",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(arguments, told, tmp_path):
    names = {
        "whole": WHOLE["ltx-2-tiny"], "tmp": tmp_path, "lora": FILES / "lora-tiny.safetensors",
        "fp8": FILES / "ltx-2-tiny-fp8.safetensors", "vae": PARTS_2_5[1],
        "gemma": FILES / "gemma-3-tiny", "2_5": PARTS_2_5[0],
        "upscaler": FILES / "spatial-upscaler-x2-tiny.safetensors",
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=told) as error:
        convert(*(text.format(**names) for text in arguments))
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_an_existing_target_is_left_alone(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"mine\.safetensors exists; remove it"):
        convert(WHOLE["ltx-2-tiny"], tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"


def test_the_newer_folders_of_diffusers_are_refused_by_name(folder, tmp_path):
    copy = shutil.copytree(folder[1], tmp_path / "newer")
    (copy / "duration_head").mkdir()
    with pytest.raises(UserError, match=r"is diffusers' LTX-2.5 \('duration_head'\)"):
        convert(copy, tmp_path / "x.safetensors")


def test_a_lost_shard_is_named(folder, tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_bytes(
        (folder[1] / "transformer/config.json").read_bytes()
    )
    index = tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(MissingFile, match=r"lacks 2 of 2 shards, first one\.safetensors"):
        read_model([tmp_path])


def test_what_diffusers_does_not_hold_stands_beside_its_folders(folder):
    source, made = folder
    rest = read_header(made / REST)
    assert {name.split(".")[0] for name in rest.tensors} <= {"vae"}
    assert rest.metadata == read_header(source).metadata


def test_unused_timestep_conditioning_survives_the_way_through_diffusers(tmp_path):
    raw, metadata = read_raw(WHOLE["ltx-2-tiny"])
    for name in ("last_scale_shift_table", "timestep_scale_multiplier"):
        raw[f"vae.decoder.{name}"] = ("F32", (2,), np.ones(2, "<f4").tobytes())
    raw["vae.decoder.up_blocks.0.res_blocks.0.scale_shift_table"] = ("F32", (1,), bytes(4))
    source = write_raw(tmp_path / "source.safetensors", raw, metadata)
    convert(source, tmp_path / "d", "--to", "diffusers")
    diffusers_model(tmp_path / "d", "vae")
    convert(tmp_path / "d", tmp_path / "back.safetensors")
    assert content(tmp_path / "back.safetensors") == content(source)
