"""Prompt files: texts, overrides, and mistakes named with their line."""

from __future__ import annotations

import pytest

from ltx2.errors import UserError
from ltx2.pipelines.prompts import PromptEntry, negative_prompt, read_prompts


@pytest.fixture
def write(tmp_path):
    """A file of the given name and text or bytes."""

    def create(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return create


def test_a_text_file_holds_one_prompt_per_line(write):
    text = '\ufeffa fox, "red"\r\n\r\n  # later\r\n  rain: on glass \r\nHallo # Größe\u2028x'
    entries = read_prompts(write("list.txt", text))
    assert [e.prompt for e in entries] == ['a fox, "red"', "rain: on glass", "Hallo # Größe\u2028x"]
    assert all(e.overrides == {} for e in entries)


def test_yaml_items_are_texts_or_prompts_with_settings(write):
    text = """
# two prompts
- a fox
- prompt: |
    rain
    on glass
  seed: 3
  negative_prompt: ""
  guidance.video.cfg: 4.5
  guidance:
    audio: {cfg: 7, stg_blocks: [28, 29]}
  frames: null
- ""
"""
    for name in ("list.yaml", "list.YML"):
        first, second, third = read_prompts(write(name, text))
        assert first == PromptEntry("a fox") and third == PromptEntry("")
        assert second.prompt == "rain\non glass"
        assert second.overrides == {
            "seed": 3,
            "negative_prompt": "",
            "guidance.video.cfg": 4.5,
            "guidance.audio.cfg": 7,
            "guidance.audio.stg_blocks": [28, 29],
            "frames": None,
        }


def test_yaml_settings_can_be_shared_and_replaced(write):
    text = "- &base {prompt: a, seed: 1, fps: 24}\n- {<<: *base, prompt: b, seed: 2}\n"
    entry = read_prompts(write("list.yaml", text))[1]
    assert entry == PromptEntry("b", {"seed": 2, "fps": 24})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a", r"a\.csv must end in \.txt, \.yaml or \.yml"),
        ("a.txt", "\n# nothing\n", "holds no prompt"),
        ("a.yaml", "# nothing\n", "holds no prompt"),
        ("a.yaml", "[]", "holds no prompt"),
        ("a.txt", b"one\ntwo\nthr\xe9e", "line 3: not UTF-8"),
        ("a.yaml", b"- one\n- thr\xe9e", "line 2: not UTF-8"),
        ("a.yaml", "prompt: a", "line 1: must be a list"),
        ("a.yaml", "- a\n- b: [\n", r"line 3: not YAML"),
        ("a.yaml", "- a\x07", "not YAML"),
        ("a.yaml", "- a\n---\n- b", "not YAML"),
        ("a.yaml", "- !!python/name:os.system x", "line 1: not YAML"),
        ("a.yaml", "- a\n- 1984\n", "line 2: 1984 is no text; write it in quotes"),
        ("a.yaml", "- a\n- null\n", "line 2: None is no text"),
        ("a.yaml", "- a\n- prompt: yes\n", "line 2: prompt: True is no text"),
        ("a.yaml", "- a\n- seed: 1\n", "line 2: no 'prompt' beside 'seed'"),
        ("a.yaml", "- prompt: a\n  seed: 1\n  seed: 2\n", "line 3: seed is given twice"),
        ("a.yaml", "- {prompt: a, a.b: 1, a: {b: 2}}\n", r"line 1: a\.b is given twice"),
        ("a.yaml", "- prompt: a\n  sampler: {}\n", "sampler is an empty mapping"),
        ("a.yaml", "- prompt: a\n  2: 3\n", "'2' is not the name of a setting"),
        ("a.yaml", "- prompt: a\n  seed=3: x\n", "'seed=3' is not the name of a setting"),
        ("a.yaml", "- prompt: a\n  day: 2024-05-01\n", "day: a date is no setting"),
        ("a.yaml", "- prompt: a\n  day: 2024-15-01\n", "line 1: cannot be read .*month"),
        ("a.yaml", "- {prompt: a, [1, 2]: x}\n", "not YAML"),
        ("a.yaml", "- &x {prompt: a, b: *x}\n", "line 1: "),
    ],
)
def test_a_mistake_is_one_line_that_says_where(write, name, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_prompts(write(name, content))
    assert "\n" not in str(error.value)


def test_an_absent_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt does not exist"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_prompts(tmp_path / "folder.txt")


def test_our_negative_prompt_is_one_line_of_terms():
    terms = negative_prompt().split(", ")
    assert {"blurry", "flicker", "watermark", "lips out of sync"} <= set(terms)
    assert len(terms) == len(set(terms)) and all(t == t.strip() and t for t in terms)
    assert "#" not in negative_prompt() and "\n" not in negative_prompt()


def test_a_negative_prompt_of_ones_own_is_joined_without_comments(write):
    path = write("mine.txt", "# mine\nfog,\n  dark corners\n")
    assert negative_prompt(path) == "fog, dark corners"
    with pytest.raises(UserError, match="is empty"):
        negative_prompt(write("empty.txt", "\n# only a comment\n"))
