"""Prompts become ids with one BOS, no EOS, at most 1024."""

from __future__ import annotations

import json
import shutil

import pytest

from ltx2.errors import UserError
from ltx2.models.tokenizer import PromptTokenizer


@pytest.fixture(params=["gemma-3-tiny", "gemma-4-tiny"])
def tokenizer(golden, request):
    """One tokenizer whose file adds BOS itself, one whose does not."""
    return PromptTokenizer.from_directory(golden / "checkpoints" / request.param)


def test_an_empty_or_blank_prompt_is_bos_alone(tokenizer):
    assert tokenizer("").ids.tolist() == [2]
    assert tokenizer(" \n\t ").ids.tolist() == [2]


def test_surrounding_space_does_not_matter_and_bos_stands_once(tokenizer):
    ids = tokenizer("  a red fox \n").ids.tolist()
    assert ids == tokenizer("a red fox").ids.tolist()
    assert ids[0] == 2 and ids.count(2) == 1 and ids[-1] != 1


def test_truncation_keeps_the_front_and_says_how_much_was_cut(tokenizer, caplog):
    text = "rain on the harbour " * 200
    whole = tokenizer(text, limit=10**6)
    cut = tokenizer(text)
    assert cut.ids.tolist() == whole.ids[:1024].tolist()
    assert cut.truncated == len(whole.ids) - 1024
    assert f"the last {cut.truncated} are cut off" in caplog.text


def test_padding_is_in_front(tokenizer):
    padded = tokenizer.pad_left(tokenizer("a fox"), 32)
    assert padded[-len(tokenizer("a fox").ids) :].tolist() == tokenizer("a fox").ids.tolist()
    assert set(padded[: -len(tokenizer("a fox").ids)].tolist()) == {0}


def test_eos_pads_where_there_is_no_pad_token(golden, tmp_path):
    folder = shutil.copytree(golden / "checkpoints" / "gemma-3-tiny", tmp_path / "gemma")
    path = folder / "tokenizer_config.json"
    names = json.loads(path.read_text()) | {"pad_token": None, "bos_token": {"content": "<bos>"}}
    path.write_text(json.dumps(names))
    assert PromptTokenizer.from_directory(folder).pad == 1
    path.write_text(json.dumps(names | {"bos_token": None}))
    with pytest.raises(UserError, match="names no bos_token"):
        PromptTokenizer.from_directory(folder)


def test_a_corrupt_tokenizer_is_a_one_line_error(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="cannot be read") as error:
        PromptTokenizer.from_directory(tmp_path)
    assert "\n" not in str(error.value)
