"""Trained modules become files that the pipelines, and other people's converters, read."""

from __future__ import annotations

import copy
import json
import math

import pytest
import yaml

torch = pytest.importorskip("torch")

from conftest import make_backend  # noqa: E402
from test_convert import CLASSES, diffusers_model  # noqa: E402

from ltx2.app.commands.convert import main as convert  # noqa: E402
from ltx2.app.compose import compose  # noqa: E402
from ltx2.errors import UserError  # noqa: E402
from ltx2.experiment.run import generate  # noqa: E402
from ltx2.media.video import read_video  # noqa: E402
from ltx2.models.tokenizer import PromptTokenizer  # noqa: E402
from ltx2.pipelines.components.gemma import read_gemma  # noqa: E402
from ltx2.pipelines.components.preflight import fit  # noqa: E402
from ltx2.pipelines.files import media_path  # noqa: E402
from ltx2.pocket.captions import vocabulary  # noqa: E402
from ltx2.pocket.tokenizer_files import write_tokenizer_files  # noqa: E402
from ltx2.training.export import (  # noqa: E402
    write_gemma,
    write_lora,
    write_monolith,
    write_upsampler,
)
from ltx2.training.modules import declare, with_first_values  # noqa: E402
from ltx2.training.recipe import low_rank_difference  # noqa: E402
from ltx2.weights.header import read_header  # noqa: E402
from ltx2.weights.lora_file import read_lora  # noqa: E402

FACTS = {"stages": {"flow": {"steps": 3}}}


def small_architecture() -> dict:
    """The pocket model's with one layer of everything."""
    with open(media_path("package:pocket/architecture.yaml"), encoding="utf-8") as file:
        architecture = yaml.safe_load(file)
    architecture["transformer"] |= {"num_layers": 1, "connector_num_layers": 1}
    architecture["vae"]["decoder_base_channels"] = 8
    architecture["upsampler"] |= {"mid_channels": 32, "num_blocks_per_stage": 1}
    architecture["vocoder"]["upsample_initial_channel"] = 16
    text = architecture["gemma"]["text_config"]
    architecture["gemma"]["text_config"] = text | {
        "num_hidden_layers": 1, "layer_types": ["full_attention"], "intermediate_size": 32,
    }  # fmt: skip
    return architecture


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model's files, its parts, and its architecture."""
    folder, architecture = tmp_path_factory.mktemp("model"), small_architecture()
    section = architecture["gemma"]
    config = write_tokenizer_files(folder / "gemma", section["text_config"], 64, corpus=50)
    parts = declare(architecture, config)
    for name, modules in parts.items():
        with_first_values(modules, name)
    write_gemma(folder / "gemma", config, parts["flow"]["gemma"])
    write_monolith(folder / "model.safetensors", architecture, parts, facts=FACTS)
    write_upsampler(folder / "up.safetensors", architecture, parts)
    return folder, parts, architecture


def shipped(name: str):
    return read_header(media_path(f"package:pocket/{name}"))


def kinds(header) -> set[str]:
    """Names without their numbers."""
    return {"".join(c for c in name if not c.isdigit()) for name in header.tensors}


def test_files_hold_what_their_metadata_promises(model):
    folder, _, architecture = model
    header = read_header(folder / "model.safetensors")
    assert fit(header).problems == () and fit(header).unused == {"video VAE statistics": 3}
    assert fit(read_header(folder / "up.safetensors")).problems == ()
    assert header.config["transformer"] == architecture["transformer"]
    assert "upsampler" not in header.config and "gemma" not in header.config
    assert json.loads(header.metadata["training"]) == FACTS
    assert header.metadata["model_version"] == "2.0.0"


def test_names_are_those_of_released_files(model):
    folder, _, _ = model
    header = read_header(folder / "model.safetensors")
    wide = {name for name, info in header.tensors.items() if info.dtype == "F32"}
    assert wide and wide == {name for name in header.tensors if "scale_shift_table" in name}
    assert "model.diffusion_model.video_embeddings_connector.learnable_registers" in header.tensors
    assert "vae.per_channel_statistics.mean-of-means" in header.tensors
    tower = kinds(read_header(folder / "gemma" / "model.safetensors"))
    assert tower == kinds(shipped("gemma/model.safetensors"))
    assert kinds(read_header(folder / "up.safetensors")) == kinds(
        shipped("ltx-2-pocket-spatial-upscaler-x2.safetensors")
    )


def test_a_pipeline_runs_on_the_files(model, tmp_path):
    folder, _, _ = model
    settings = compose([
        f"model.files.checkpoint.file={folder / 'model.safetensors'}",
        f"model.files.text_encoder.file={folder / 'gemma'}",
        f"model.files.spatial_upscaler.file={folder / 'up.safetensors'}",
        "prompt='a red ball moves left'", "pipeline=one_stage", "scheduler.steps=2",
        "height=64", "width=64", "frames=5", "dtype=fp32", "cache=off", "checks=off",
    ])  # fmt: skip
    clip = generate(settings, lambda: make_backend("torch"), tmp_path)
    frames, _ = read_video(clip)
    assert frames.shape == (5, 64, 64, 3) and frames.std() > 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["text"][0]["tokens"] == 6


def test_a_prompt_is_cut_at_the_length_the_tokenizer_tells(model, caplog):
    tokenizer = PromptTokenizer.from_directory(model[0] / "gemma")
    assert read_gemma(model[0] / "gemma").sequence == tokenizer.limit == 64
    assert len(tokenizer("red " * 80).ids) == 64
    assert "has 81 tokens, the model reads 64: the last 17 are cut off" in caplog.text


def test_the_vocabulary_is_every_word_of_the_grammar(model):
    tokenizer = PromptTokenizer.from_directory(model[0] / "gemma").tokenizer
    words = tokenizer.get_vocab()
    assert set(vocabulary()) <= set(words)
    assert [words[f"<{name}>"] for name in ("pad", "eos", "bos", "unk")] == [0, 1, 2, 3]
    assert tokenizer.encode("A Red ball, zebra").ids == [
        2, words["a"], words["red"], words["ball"], words[","], 3,
    ]  # fmt: skip


def test_tokenizer_files_are_the_same_whenever_they_are_written(model, tmp_path):
    section = model[2]["gemma"]
    write_tokenizer_files(tmp_path, section["text_config"], 64, corpus=50)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (model[0] / "gemma" / path.name).read_bytes()


@pytest.mark.parametrize("length", [0, "long", True])
def test_a_sequence_that_is_no_number_of_tokens_is_refused(length, model, tmp_path):
    for path in (model[0] / "gemma").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["model_max_length"] = length
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model_max_length=.* is no number of tokens"):
        PromptTokenizer.from_directory(tmp_path)


def test_diffusers_reads_what_is_converted_to_its_layout(model, tmp_path):
    pytest.importorskip("diffusers")
    assert convert([str(model[0] / "model.safetensors"), str(tmp_path), "--to", "diffusers"]) == 0
    for part in CLASSES:
        assert diffusers_model(tmp_path, part) is not None


def test_what_was_never_trained_is_named(model, tmp_path):
    folder, parts, architecture = model
    empty = parts | {"vocoder": declare(architecture, _config(folder))["vocoder"]}
    with pytest.raises(UserError, match=r"'vocoder.conv_pre.weight' was never trained or set"):
        write_monolith(tmp_path / "a.safetensors", architecture, empty)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_not_exported(model, tmp_path):
    _, parts, architecture = model
    broken = copy.deepcopy(parts["upsampler"])
    broken["upsampler"].initial_conv.weight[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match=r"'initial_conv.weight' holds NaN or Inf"):
        write_upsampler(tmp_path / "a.safetensors", architecture, {"upsampler": broken})


def test_the_difference_of_two_transformers_becomes_a_lora(model, tmp_path):
    _, parts, _ = model
    changed = copy.deepcopy(parts["flow"])
    layer = changed["transformer"].transformer_blocks[0].attn1.to_q
    down, up = torch.randn(2, 128), torch.randn(128, 2)
    layer.weight = layer.weight + up @ down
    factors = low_rank_difference(parts["flow"], changed, 2)
    found = factors["transformer_blocks.0.attn1.to_q"]
    assert torch.allclose(found[1] @ found[0], up @ down, atol=1e-4)
    path = write_lora(tmp_path / "lora.safetensors", factors, facts=FACTS)
    lora = read_lora(path)
    assert lora.ranks == (2,) and not lora.unknown and not lora.text_side
    assert len(lora.pairs) == len(factors)


def _config(folder) -> dict:
    return json.loads((folder / "gemma" / "config.json").read_text())
