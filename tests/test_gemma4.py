"""Gemma 4, the text encoder of LTX-2.5: architecture, packed file and directory, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from checkpoint_files import read_raw, write_raw

from ltx2.errors import UserError
from ltx2.models.gemma4_config import Gemma4Config
from ltx2.models.gemma_config import GLOBAL, LOCAL, RopeScale
from ltx2.models.gemma_tower import host_tables
from ltx2.pipelines.components.enhance import enhance_prompts
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.components.text import check_text_files, encode_prompts
from ltx2.weights.header import read_header

IDS = np.array([[2, 40, 300, 7, 199]], np.int32)
FP32 = {"text_encoder": "fp32", "connectors": "fp32"}
SPARSE = {
    "model_type": "gemma4_unified",
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_hidden_layers": 7,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "vocab_size": 262144,
    },
}


def changed(**values):
    return SPARSE | {"text_config": SPARSE["text_config"] | values}


@pytest.fixture
def folder(golden):
    return golden / "checkpoints" / "gemma-4-tiny"


@pytest.fixture
def packed(golden):
    return golden / "checkpoints/ltx-2.5-tiny/text_encoders/gemma4-tiny-with-proj.safetensors"


@pytest.fixture
def transformer(golden):
    path = "checkpoints/ltx-2.5-tiny/diffusion_models/ltx-2.5-tiny-transformer.safetensors"
    return read_header(golden / path)


def repacked(packed, tmp_path, change):
    """A copy of the packed file; `change(tensors, metadata)` edits it in place."""
    raw, metadata = read_raw(packed)
    change(raw, metadata)
    return write_raw(tmp_path / packed.name, raw, metadata)


def test_a_sparse_config_gives_the_documented_architecture():
    config = Gemma4Config.from_metadata(SPARSE)
    assert config.layer_types == (*[LOCAL] * 5, GLOBAL, GLOBAL)  # the last one is forced
    assert (config.width(LOCAL), config.width(GLOBAL)) == (256, 512)
    assert (config.kv_heads(LOCAL), config.kv_heads(GLOBAL)) == (8, 1)
    assert config.rope(LOCAL) == RopeScale(1e4, 1.0, 1.0)
    assert config.rope(GLOBAL) == RopeScale(1e6, 1.0, 0.25)
    assert (config.eps, config.feature_width) == (1e-6, 3840 * 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma4"}, "model_type=gemma4 is not a text encoder of LTX-2"),
        (changed(num_kv_shared_layers=2), "num_kv_shared_layers=2 is not supported"),
        (changed(use_double_wide_mlp=True), "use_double_wide_mlp=True is not supported"),
        (changed(use_bidirectional_attention="all"), "use_bidirectional_attention=all"),
        (changed(rope_parameters={GLOBAL: {"rope_type": "yarn"}}), "rope_type=yarn"),
        (changed(rope_parameters={LOCAL: {"factor": 8.0}}), r"default \(factor 8.0\)"),
        (changed(layer_types=[LOCAL]), "1 entries for 7 layers"),
    ],
)
def test_an_unsupported_config_is_refused_with_the_reason(config, message):
    with pytest.raises(UserError, match=message):
        Gemma4Config.from_metadata(config)


def test_partial_rotation_turns_the_first_quarter_by_the_frequencies_of_the_whole_head():
    cos, sin = host_tables(3, 16, RopeScale(100.0, 1.0, 0.25))
    angles = 2 * 100.0 ** -(np.array([0, 2]) / 16)
    np.testing.assert_allclose(cos[2, :2], np.cos(angles), rtol=1e-6)
    assert (cos[:, 2:] == 1).all() and (sin[:, 2:] == 0).all()


def test_the_packed_file_and_the_directory_are_the_same_encoder(folder, packed, backend):
    both = [read_gemma(path) for path in (folder, packed)]
    assert [files.family for files in both] == ["Gemma 4"] * 2
    assert both[0].config == both[1].config and both[0].version == both[1].version
    ids = [files.tokenizer()("A café at night").ids.tolist() for files in both]
    assert ids[0] == ids[1] and ids[0][0] == 2
    states = [load_gemma(files, backend, "fp32")(IDS) for files in both]
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))


def test_global_layers_take_their_values_from_the_keys(folder, backend):
    model = load_gemma(read_gemma(folder), backend, "fp32")
    held = [layer.self_attn.v_proj is not None for layer in model.layers]
    assert held == [kind == LOCAL for kind in model.config.layer_types]


def test_the_layer_scalar_multiplies_the_whole_stream(folder, backend):
    model = load_gemma(read_gemma(folder), backend, "fp32")
    layer = model.layers[0]
    x = model.embed_tokens(IDS)
    span = model.spans(IDS.shape[1], x)[LOCAL]
    plain = backend.numpy(layer(x, span)) / backend.numpy(layer.layer_scalar)
    layer.layer_scalar = backend.array(np.array([0.5], np.float32))
    np.testing.assert_allclose(backend.numpy(layer(x, span)), plain / 2, rtol=1e-5, atol=1e-6)


def test_packed_assets_may_be_signed_bytes_or_metadata(packed, tmp_path):
    def change(raw, metadata):
        raw["tokenizer_json"] = ("I8", *raw["tokenizer_json"][1:])
        _, _, config = raw.pop("hf_asset__tokenizer_config.json")
        metadata["hf_asset__tokenizer_config.json"] = config.decode()

    tokenizer = read_gemma(repacked(packed, tmp_path, change)).tokenizer()
    want = read_gemma(packed).tokenizer()
    assert (tokenizer.bos, tokenizer.pad) == (want.bos, want.pad) == (2, 0)
    assert tokenizer("a fox").ids.tolist() == want("a fox").ids.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw, told: raw.pop("tokenizer_json"), "does not hold 'tokenizer_json'"),
        (lambda raw, told: told.pop("gemma_config"), "has no 'gemma_config' in its metadata"),
        (lambda raw, told: told.update(gemma_config="{"), "'gemma_config' is not JSON"),
    ],
)
def test_an_incomplete_packed_file_is_refused_in_one_line(packed, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        read_gemma(repacked(packed, tmp_path, change))
    assert "\n" not in str(error.value)


def test_a_missing_layer_scalar_is_named(packed, tmp_path, transformer):
    path = repacked(packed, tmp_path, lambda raw, _: raw.pop("model.layers.3.layer_scalar"))
    with pytest.raises(UserError, match=r"missing: model\.layers\.3\.layer_scalar"):
        check_text_files(path, transformer)


def test_a_directory_serves_with_the_projections_of_a_model_file(
    folder, packed, transformer, backend, tmp_path
):
    """The other way round from the packed file, whose projections stand beside the encoder."""
    raw, metadata = read_raw(transformer.path)
    extra, _ = read_raw(packed)
    raw |= {n: t for n, t in extra.items() if n.startswith("text_embedding_projection.")}
    whole = read_header(write_raw(tmp_path / "whole.safetensors", raw, metadata))
    a = encode_prompts(["a fox"], folder, whole, backend, FP32)[0]
    b = encode_prompts(["a fox"], packed, transformer, backend, FP32)[0]
    np.testing.assert_array_equal(backend.numpy(a.video), backend.numpy(b.video))


def test_encoders_and_models_of_other_generations_are_refused(golden, folder, packed, transformer):
    checkpoints = golden / "checkpoints"
    with pytest.raises(UserError, match=r"trained with text encoder 'tiny-gemma4-a', .* Gemma 3'"):
        check_text_files(checkpoints / "gemma-3-tiny", transformer)
    for name in ("ltx-2-tiny", "ltx-2.3-tiny"):
        model = read_header(checkpoints / f"{name}.safetensors")
        with pytest.raises(UserError, match=r"needs Gemma 3 12B .* is Gemma 4"):
            check_text_files(packed, model)
    with pytest.raises(UserError, match=r"neither .* holds the text projections"):
        check_text_files(folder, transformer)
    told = transformer.metadata | {"gemma_source_checkpoint": json.dumps({"gemma_version": "b"})}
    with pytest.raises(UserError, match=r"trained with text encoder 'b', .* 'tiny-gemma4-a'"):
        check_text_files(packed, replace(transformer, metadata=told))


def test_a_missing_shard_of_a_directory_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "gemma")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"lacks 1 of the 2 files .*model-2\.safetensors"):
        read_gemma(copy)


def test_it_cannot_rewrite_prompts(packed, backend):
    with pytest.raises(UserError, match="encodes prompts but cannot write them") as error:
        enhance_prompts(["a fox"], packed, backend, "fp32")
    assert "\n" not in str(error.value)
