"""Prompts survive the command line unchanged, whatever they contain."""

from __future__ import annotations

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ltx2.app import main
from ltx2.app.compose import compose
from ltx2.app.prompts import quote, quote_prompts
from ltx2.cli import main as ltx2
from ltx2.errors import UserError

PIECES = [
    "\\",
    "'",
    '"',
    "${",
    "$",
    "{",
    "}",
    ",",
    "=",
    " ",
    "a",
    "\n",
    "é",
    "😀",
    "[",
    "]",
    "#",
    "!",
]
NASTY = [
    'it\'s, well, "quoted"; 100% & more!',
    "ends with a backslash \\",
    "\\\\' mixed \\' quotes \\\"",
    "${seed} and \\${seed} and \\\\${seed}",
    "a=b [c] {d: e} (f) ~g `h` <i>",
    "null",
    "1.5",
    "true",
    "",
    "  spaces  ",
    "línea — “ß” 😀\nnew line\ttab",
    "/etc/passwd ../x ?? * $HOME",
]


def read_back(quoted: str) -> str:
    """The value after Hydra's grammar and OmegaConf's references."""
    value = OverridesParser.create().parse_override(f"prompt={quoted}").value()
    return OmegaConf.create({"prompt": value, "seed": 1}).prompt


@pytest.mark.parametrize("text", NASTY)
def test_a_quoted_prompt_is_read_back(text):
    assert read_back(quote(text)) == text


def test_random_prompts_are_read_back():
    draw = random.Random(0)
    for _ in range(400):
        text = "".join(draw.choices(PIECES, k=draw.randint(0, 12)))
        assert read_back(quote(text)) == text


def test_a_prompt_reaches_the_settings_unchanged():
    text = NASTY[3] + NASTY[0]
    assert compose(quote_prompts(["--prompt", text])).prompt == text


def test_prompts_of_a_sweep_reach_their_jobs_unchanged(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(main.TASKS, "note", lambda settings, *_: seen.append(settings.prompt))
    arguments = [part for text in NASTY for part in ("--prompt", text)]
    assert ltx2([*arguments, "task=note", f"paths.outputs={tmp_path}"]) == 0
    assert seen == NASTY


def test_one_prompt_is_not_a_sweep():
    assert quote_prompts(["--prompt", "a, b", "seed=1"]) == ["seed=1", "prompt='a, b'"]


def test_several_prompts_are_a_sweep():
    assert quote_prompts(["--prompt=a", "--prompt", "b"]) == ["prompt='a','b'", "-m"]
    assert quote_prompts(["-m", "--prompt=a", "--prompt=b"]).count("-m") == 1


def test_the_negative_prompt_is_quoted_too():
    rest = quote_prompts(["--negative-prompt", "blur, noise"])
    assert compose(rest).negative_prompt == "blur, noise"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt"], "--prompt needs a text"),
        (["--prompt", "???"], "reserved"),
        (["--negative-prompt=a", "--negative-prompt=b"], "given 2 times"),
        (["--cfg", "job", "--prompt=a", "--prompt=b"], "one --prompt"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        quote_prompts(arguments)
