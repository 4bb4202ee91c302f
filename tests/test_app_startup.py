"""What the command line imports, and that its entry points are one program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltx2 import __version__
from ltx2.app.groups import groups
from ltx2.app.help import help_text
from ltx2.cli import main
from ltx2.pipelines.catalogue import conf_folder

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "mlx", "numpy", "transformers", "av", "einops", "safetensors", "tokenizers"}
PROBE = """
import os, runpy, sys
script, sys.argv[1:] = sys.argv[1], sys.argv[2:]
sys.path[0] = os.path.dirname(script)  # as python does for a script
try:
    runpy.run_path(script, run_name="__main__")
finally:
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    print("LOADED", *loaded, file=sys.stderr)
"""


def loaded(folder, *arguments) -> tuple[set[str], str]:
    """Top-level packages loaded when `launch.py` ends, started in `folder`, and its stderr."""
    command = [sys.executable, "-c", PROBE, str(ROOT / "launch.py"), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    [line] = [text for text in ended.stderr.splitlines() if text.startswith("LOADED ")]
    found = set(line.split())
    assert "ltx2" in found, ended.stderr
    return found, ended.stderr


@pytest.mark.parametrize("arguments", [("--cfg", "job"), ("--info", "defaults"), ("seed=abc",)])
def test_composing_loads_no_array_framework(arguments, tmp_path):
    found, _ = loaded(tmp_path, *arguments)
    assert "hydra" in found
    assert not found & HEAVY


def test_help_does_not_even_load_hydra(tmp_path):
    found, _ = loaded(tmp_path, "--help")
    assert not found & (HEAVY | {"hydra", "omegaconf", "yaml"})


def test_missing_weights_are_found_before_a_framework_is_loaded(tmp_path):
    found, told = loaded(tmp_path, "model=dev")
    assert "hf download Lightricks/LTX-2 ltx-2-19b-dev.safetensors" in told
    assert not found & {"torch", "mlx", "transformers"}
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("entry", [["-m", "ltx2"], ["-m", "ltx2", "generate"], ["launch.py"]])
def test_every_entry_point_composes_the_same_settings(entry, capfd):
    assert main(["--cfg", "job", "seed=7"]) == 0
    expected = capfd.readouterr().out
    ended = subprocess.run(
        [sys.executable, *entry, "--cfg", "job", "seed=7"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout == expected
    assert "seed: 7" in expected


def test_help_lists_every_group_and_option():
    lines = [line.split() for line in help_text(conf_folder()).splitlines() if line.strip()]
    words = {word.rstrip(",") for line in lines for word in line[:2]}
    for group, options in groups(conf_folder()).items():
        assert {group, *options} <= words


def test_every_option_is_described():
    text = help_text(conf_folder())
    for options in groups(conf_folder()).values():
        for option in options:
            [line] = [t for t in text.splitlines() if t[5:].split()[:1] == [option]][:1]
            assert len(line.split()) > 2, f"{option} has no comment"


def test_help_and_version_win_over_everything_else(capsys):
    assert main(["model=nothing", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: launch.py")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ltx2 {__version__}\n"


def test_a_prompt_that_looks_like_an_option_is_a_prompt(capsys):
    assert main(["--prompt", "--help", "--cfg", "job"]) == 0
    assert "prompt: --help" in capsys.readouterr().out


def test_doctor_reports_the_backends_and_the_encoder(capsys):
    assert main(["doctor"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert {"ltx2", "python", "torch", "mlx", "video"} <= set(rows)
    assert "PyAV" in rows["video"]
