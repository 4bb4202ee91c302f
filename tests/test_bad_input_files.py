"""Weight files that are damaged, of another kind or in the wrong place: told from their headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import Raw, f32, read_raw, write_raw
from hostile_runs import CommandLine

import ltx2

POCKET = Path(ltx2.__file__).parent / "pocket"
CHECKPOINT = POCKET / "ltx-2-pocket.safetensors"
GEMMA = POCKET / "gemma"
TINY = Path(__file__).parent / "golden" / "checkpoints"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 43300000000\n"
QUERY = "diffusion_model.transformer_blocks.0.attn1.to_q"

ROLES = {
    "checkpoint": "model.files.checkpoint.file",
    "upscaler": "model.files.spatial_upscaler.file",
    "gemma": "model.files.text_encoder.file",
    "lora": "+lora.mine.file",
}


@pytest.fixture
def line(tmp_path, capsys) -> CommandLine:
    return CommandLine(tmp_path, capsys)


def refused(line: CommandLine, role: str, path: Path, *arguments: str) -> str:
    pipeline = ["pipeline=two_stage"] if role == "upscaler" else []
    return line.refused(f"{ROLES[role]}={path}", *pipeline, *arguments)


DAMAGED = {
    "empty": (lambda data: b"", "(0 bytes) is not a safetensors file"),
    "text": (lambda data: b"hello, not weights", "is not a safetensors file"),
    "pointer": (
        lambda data: LFS.encode(),
        "it looks like a Git LFS pointer; fetch the file itself",
    ),
    "page": (lambda data: b"<!DOCTYPE html>404", "it looks like a web page"),
    "pickle": (lambda data: b"PK\3\4" + bytes(99), "it looks like a zip or .pt file"),
    "half header": (lambda data: data[:500], "is truncated: it has 500 bytes, its header promises"),
    "truncated": (lambda data: data[:-1000], "is truncated: it has"),
    "longer": (lambda data: data + b"xx", "2 bytes after its last tensor belong to nothing"),
    "corrupt": (lambda data: data[:9] + b"#" + data[10:], "has a corrupt safetensors header"),
}


# The same reader serves every role.
OTHER_ROLES = [(damage, role) for damage in ("empty", "truncated") for role in ("upscaler", "lora")]


@pytest.mark.parametrize(("damage", "role"), [*((d, "checkpoint") for d in DAMAGED), *OTHER_ROLES])
def test_a_damaged_file_is_refused_in_every_role(damage, role, line, tmp_path):
    change, told = DAMAGED[damage]
    file = tmp_path / "bad.safetensors"
    file.write_bytes(change(CHECKPOINT.read_bytes()))
    name = {"checkpoint": "checkpoint", "upscaler": "spatial_upscaler", "lora": "lora.mine"}[role]
    got = refused(line, role, file)
    assert got.startswith(f"{name}: bad.safetensors") and told in got


@pytest.mark.parametrize("role", ["checkpoint", "upscaler", "gemma", "lora"])
def test_an_absent_file_is_listed_with_where_it_was_looked_for(role, line, tmp_path):
    code, told = line.run(f"{ROLES[role]}={tmp_path / 'no.safetensors'}", "pipeline=two_stage")
    assert code == 2 and "1 needed file(s) not found" in told
    assert f"looked for: {tmp_path / 'no.safetensors'}" in told
    assert line.left() == []


WRONG_KIND = {
    ("checkpoint", "lora-tiny.safetensors"): "is a LoRA, not a model file; it belongs under lora.",
    (
        "checkpoint",
        "spatial-upscaler-x2-tiny.safetensors",
    ): "is a spatial x2 latent upsampler, not a"
    " model file; it belongs under model.files.spatial_upscaler.file",
    ("checkpoint", "video-vae-timestep-tiny.safetensors"): "is a file with only video VAE decoder",
    ("checkpoint", "gemma-3-tiny"): "is a folder; a .safetensors file is needed",
    (
        "checkpoint",
        "ltx-2-tiny-fp8.safetensors",
    ): "is a transformer without VAEs; give",
    ("upscaler", "temporal-upscaler-x2-tiny.safetensors"): "needs an upscaler from latent grid"
    " (2, 2, 2) to (2, 4, 4), but temporal-upscaler-x2-tiny.safetensors is temporal x2",
    ("upscaler", "spatial-upscaler-x1.5-tiny.safetensors"): "is spatial x1.5 and gives (2, 3, 3);"
    " set model.files.spatial_upscaler.file to the right kind",
    ("upscaler", "lora-tiny.safetensors"): "is a LoRA, not an upsampler",
    ("upscaler", "ltx-2-tiny.safetensors"): "is an LTX-2.0 model file, not an upsampler",
    ("lora", "ltx-2-tiny.safetensors"): "is an LTX-2.0 model file, not a LoRA; it belongs under",
    (
        "lora",
        "spatial-upscaler-x2-tiny.safetensors",
    ): "is a spatial x2 latent upsampler, not a LoRA",
    ("lora", "lora-tiny.safetensors"): "was made for a model of other sizes",
    ("gemma", "gemma-3-tiny"): "gives 448 features per token (64 x 7 hidden states), but"
    " ltx-2-pocket.safetensors was trained on 320; use the Gemma of its release",
    ("gemma", "gemma-4-tiny"): "is Gemma 4, which belongs to LTX-2.5",
    ("gemma", "ltx-2-tiny.safetensors"): "is no packed text encoder",
}


@pytest.mark.parametrize(("role", "name"), WRONG_KIND)
def test_a_file_of_another_kind_is_told_where_it_belongs(role, name, line):
    assert WRONG_KIND[role, name] in refused(line, role, TINY / name)


def altered(raw: Raw, metadata: dict[str, str], **section) -> dict[str, str]:
    """Metadata with the transformer's config changed."""
    config = json.loads(metadata["config"])
    config["transformer"] |= section
    return metadata | {"config": json.dumps(config)}


@pytest.fixture(scope="module")
def pocket():
    return read_raw(CHECKPOINT)


METADATA = {
    "none": (lambda raw, meta: {}, "has no 'config' in its metadata"),
    "no JSON": (lambda raw, meta: meta | {"config": "{bad"}, "metadata 'config' is not JSON"),
    "a text for a number": (
        lambda raw, meta: altered(raw, meta, num_layers="many"),
        "has unusable metadata of transformer (ValueError: invalid literal",
    ),
    "more layers": (
        lambda raw, meta: altered(raw, meta, num_layers=5),
        "does not fit its own metadata as the transformer: 72 tensors are missing",
    ),
}


@pytest.mark.parametrize("fault", METADATA)
def test_a_checkpoint_must_fit_its_metadata(fault, pocket, line, tmp_path):
    raw, metadata = pocket
    change, told = METADATA[fault]
    file = write_raw(tmp_path / "odd.safetensors", raw, change(raw, metadata))
    assert told in refused(line, "checkpoint", file)


def test_a_checkpoint_of_integers_is_refused(pocket, line, tmp_path):
    raw, metadata = pocket
    name = "model.diffusion_model.proj_out.weight"
    changed = raw | {name: ("I16", *raw[name][1:])}
    file = write_raw(tmp_path / "odd.safetensors", changed, metadata)
    assert f"'{name}' has dtype I16" in refused(line, "checkpoint", file)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("ltx-2-distilled", [], "is a distilled checkpoint, but model.kind=any; set"),
        ("ltx-2-distilled", ["model.kind=dev"], "set model.kind=distilled or choose another file"),
        (
            "ltx-2-distilled",
            ["model.kind=distilled"],
            "is distilled and cannot follow scheduler=ltx2; use scheduler=distilled",
        ),
        (
            "ltx-2-dev",
            ["model.kind=distilled", "scheduler=distilled"],
            "is a dev checkpoint, but model.kind=distilled; set model.kind=dev",
        ),
        (
            "ltx-2-dev",
            ["model.kind=dev", "scheduler=distilled"],
            "is not distilled and cannot follow the distilled list",
        ),
    ],
)
def test_the_files_name_says_which_schedule_fits(name, arguments, told, line, tmp_path):
    file = tmp_path / f"{name}.safetensors"
    shutil.copyfile(CHECKPOINT, file)
    assert told in refused(line, "checkpoint", file, *arguments)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(name):
    return lambda folder: (folder / name).unlink()


def missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    homes = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


def narrower(folder):
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config)["hidden_size"] //= 2
    (folder / "config.json").write_text(json.dumps(config))


GEMMAS = {
    "no tokenizer": (remove("tokenizer.json"), "has no tokenizer.json; download the tokenizer"),
    "no config": (remove("config.json"), "has no config.json; download the whole Gemma"),
    "no weights": (remove("model.safetensors"), "has no .safetensors file; download the Gemma"),
    "a missing shard": (missing_shard, "lacks 1 of the 2 files in model.safetensors.index.json"),
    "a broken config": (write("config.json", "{nope"), "config.json is not JSON"),
    "another family": (
        write("config.json", '{"model_type": "llama"}'),
        "model_type=llama is not a",
    ),
    "a pointer": (write("model.safetensors", LFS), "it looks like a Git LFS pointer"),
    "a broken tokenizer": (write("tokenizer.json", "{}"), "the tokenizer cannot be read"),
    "another width": (narrower, "use the Gemma of its release"),
}


@pytest.mark.parametrize("fault", GEMMAS)
def test_an_incomplete_gemma_folder_is_refused(fault, line, tmp_path):
    change, told = GEMMAS[fault]
    folder = tmp_path / "gemma"
    shutil.copytree(GEMMA, folder)
    change(folder)
    assert told in refused(line, "gemma", folder)


def factors(name: str = QUERY, dtype: str | None = None) -> Raw:
    pair = {
        f"{name}.lora_A.weight": f32(np.full((2, 128), 0.01)),
        f"{name}.lora_B.weight": f32(np.full((128, 2), 0.01)),
    }
    return {key: (dtype or old, *rest) for key, (old, *rest) in pair.items()}


LORAS = {
    "no layer": (factors("diffusion_model.nope"), {}, [], "changes nothing: none of its 1 pairs"),
    "a strange layer": (
        factors() | factors("diffusion_model.nope"), {}, [],
        "fits only in part: 1 of 2 pairs match",
    ),
    "half a pair": (dict(list(factors().items())[:1]), {}, [], "has only its down factor"),
    "integers": (factors(dtype="I32"), {}, [], "has dtype I32; the factors of a LoRA are"),
    "odd metadata": (
        factors(), {"reference_downscale_factor": "two"}, [],
        "'reference_downscale_factor' is 'two', not a whole number",
    ),
    "too strong": (factors(), {}, ["lora.mine.strength=5"], "lora.mine.strength=5.0 is not in [-4"),
    "no number": (factors(), {}, ["lora.mine.strength=nan"], "lora.mine.strength=nan is not in"),
    "a strange stage": (
        factors(), {}, ["lora.mine.stages={bas:1.0}"], "did you mean 'base'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", LORAS)
def test_a_lora_that_cannot_be_applied_is_refused(fault, line, tmp_path):
    raw, metadata, arguments, told = LORAS[fault]
    file = write_raw(tmp_path / "mine.safetensors", raw, metadata)
    assert told in refused(line, "lora", file, *arguments)
