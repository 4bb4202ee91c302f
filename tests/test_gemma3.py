"""The Gemma 3 text tower: masks, windows, dtypes, directories."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.gemma3 import Gemma3
from ltx2.models.gemma_config import RopeScale
from ltx2.models.gemma_tower import host_bias, host_tables
from ltx2.models.tokenizer import Prompt
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.components.text import encode_states

IDS = np.array([[2, 288, 336, 396, 317, 40, 7, 101, 300]], np.int32)


@pytest.fixture
def directory(golden):
    return read_gemma(golden / "checkpoints" / "gemma-3-tiny")


@pytest.fixture
def copy(golden, tmp_path):
    """A Gemma directory that a test may damage."""
    return shutil.copytree(golden / "checkpoints" / "gemma-3-tiny", tmp_path / "gemma")


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_left_and_right_padded_batches_agree_with_unpadded_ids(directory, backend):
    model = load_gemma(directory, backend, "fp32")
    alone = [backend.numpy(x)[0] for x in model(IDS)]
    tokens, total = IDS.shape[1], 16
    batch, mask = np.zeros((2, total), np.int32), np.zeros((2, total), np.int32)
    for row, part in enumerate((slice(total - tokens, total), slice(0, tokens))):
        batch[row, part], mask[row, part] = IDS[0], 1
    for want, state in zip(alone, model(batch, mask), strict=True):
        got = backend.numpy(state)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got[0, -tokens:], want, atol=1e-4)
        np.testing.assert_allclose(got[1, :tokens], want, atol=1e-4)


def test_a_short_window_changes_only_tokens_beyond_it(directory, backend):
    wide = load_gemma(directory, backend, "fp32")
    narrow = replace(wide, config=replace(wide.config, window=4))
    a, b = (backend.numpy(model(IDS)[1])[0] for model in (wide, narrow))
    np.testing.assert_allclose(a[:4], b[:4], atol=1e-5)
    assert np.abs(a[4:] - b[4:]).max(axis=1).min() > 1e-3


def test_window_keeps_the_token_itself_and_those_before():
    seen = host_bias(6, 3, None)[0, 0] == 0
    assert seen[5].tolist() == [False, False, False, True, True, True]
    assert seen[1].tolist() == [True, True, False, False, False, False]
    assert host_bias(3, 3, np.ones((1, 3))) is None


def test_linear_scaling_divides_positions():
    plain, scaled = host_tables(17, 8, RopeScale(1e6, 1)), host_tables(17, 8, RopeScale(1e6, 8))
    np.testing.assert_allclose(scaled[0][16], plain[0][2], atol=1e-6)
    np.testing.assert_allclose(plain[1][3, 1], np.sin(3 * 1e6**-0.25), atol=1e-6)


def test_bf16_states_are_finite_close_and_bf16(directory, backend):
    exact = load_gemma(directory, backend, "fp32")(IDS)
    states = load_gemma(directory, backend, "bf16")(IDS)
    bf16 = backend.array(np.zeros(1, np.float32), "bf16").dtype
    assert {x.dtype for x in states} == {bf16}
    for x, y in zip(states, exact, strict=True):
        error = np.linalg.norm(backend.numpy(x) - backend.numpy(y))
        assert error < 0.03 * np.linalg.norm(backend.numpy(y))


def test_embedding_scale_is_rounded_to_the_weight_dtype(directory, backend):
    model = load_gemma(directory, backend, "bf16")
    model.embed_tokens.scale = 3840**0.5
    ones = model.embed_tokens.weight * 0 + 1
    model.embed_tokens.weight = ones
    assert ops.to_numpy(model.embed_tokens(IDS)).max() == 62.0


def test_only_the_language_model_is_read(directory):
    found = directory.match(Gemma3.declare(directory.config))
    assert all(item.name.startswith("language_model.model.") for item in found)
    assert len({item.header.path.name for item in found}) == 2
    assert len(found) == 2 + 13 * 6


def test_newer_tensor_names_load_to_the_same_states(directory, copy, backend):
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    tensors = {}
    for shard in directory.shards:
        for name, value in load_file(shard.path).items():
            renamed = name.replace("language_model.model.", "model.language_model.")
            tensors[renamed] = value.float().numpy()
        (copy / shard.path.name).unlink()
    (copy / "model.safetensors.index.json").unlink()
    save_file(tensors, copy / "model.safetensors")
    a = load_gemma(directory, backend, "fp32")(IDS)[-1]
    b = load_gemma(read_gemma(copy), backend, "fp32")(IDS)[-1]
    np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))


def test_a_foreign_tokenizer_is_named(directory, backend):
    model = load_gemma(directory, backend, "fp32")
    with pytest.raises(UserError, match=r"token id 416 is outside .* vocabulary of 416"):
        encode_states(model, Prompt(np.array([2, 416], np.int32), 0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("model-00002-of-00002.safetensors", "lacks 1 of the 2 files .*model-00002-of-00002"),
    ],
)
def test_a_missing_file_is_named(copy, name, message):
    (copy / name).unlink()
    with pytest.raises(UserError, match=message) as error:
        read_gemma(copy)
    assert "\n" not in str(error.value)


def test_a_directory_without_weights_says_so(copy):
    for path in copy.glob("model*"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no \.safetensors file"):
        read_gemma(copy)


def test_a_missing_tensor_is_named(copy):
    index = copy / "model.safetensors.index.json"
    edit_json(index, lambda c: c.update(weight_map={"x": "model-00001-of-00002.safetensors"}))
    directory = read_gemma(copy)
    with pytest.raises(UserError, match=r"12 tensors are missing: .*layers.5.self_attn.q_proj"):
        directory.match(Gemma3.declare(directory.config))


def test_an_absent_directory_and_a_file_that_is_no_text_encoder_are_refused(golden, tmp_path):
    with pytest.raises(FileNotFoundError, match="Gemma 3 directory"):
        read_gemma(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no 'gemma_config' in its metadata"):
        read_gemma(golden / "checkpoints" / "ltx-2-tiny.safetensors")


def test_a_config_that_is_not_json_is_refused(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        read_gemma(copy)
