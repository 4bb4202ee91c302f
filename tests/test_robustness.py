"""Runs that go wrong on the way, and what the record of a run is good for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import Raw, read_raw, write_raw
from hostile_runs import SMALL, CommandLine

import ltx2
from ltx2.app.build import build
from ltx2.app.compose import recorded
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.video import VideoWriter, read_comment

CHECKPOINT = Path(ltx2.__file__).parent / "pocket" / "ltx-2-pocket.safetensors"
MEDIA = Path(__file__).parent / "golden" / "media"
# A process started in the background ignores SIGINT, and so would its children.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ltx2.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def line(tmp_path, capsys) -> CommandLine:
    return CommandLine(tmp_path, capsys)


def record(line: CommandLine) -> dict:
    """run.json, which must be JSON in the strict sense."""

    def no_constant(text):
        raise AssertionError(f"{text} is not JSON")

    return json.loads(line.only("run.json").read_text(), parse_constant=no_constant)


def pictures(line: CommandLine) -> list[bytes]:
    return [path.read_bytes() for path in line.left() if path.match("video/*.png")]


# --- prompts


@pytest.mark.parametrize("prompt", ["", " \n", '\U0001f3ac, "it\'s" {a} [b] ${c} \\'])
def test_any_prompt_is_allowed_and_recorded_as_written(prompt, line):
    code, _ = line.run(f"--prompt={prompt}")
    assert code == 0
    assert record(line)["settings"]["prompt"] == prompt
    assert record(line)["text"][0]["truncated"] == 0


def test_a_prompt_beyond_the_limit_is_cut_with_a_warning_that_says_how_much(line):
    code, told = line.run("--prompt", "red circle moves " * 400)
    assert code == 0
    assert "has 1201 tokens, the model reads 1024: the last 177 are cut off" in told
    assert record(line)["text"] == [{"tokens": 1024, "truncated": 177}]


# --- folders


@pytest.mark.parametrize("folder", ["taken", "taken/below", "/proc/outputs"])
def test_a_folder_that_cannot_be_written_is_named(folder, line, tmp_path):
    (tmp_path / "taken").write_text("a file")
    path = tmp_path / folder
    told = line.refused(f"paths.outputs={path}")
    assert told.startswith(f"cannot create '{path}") and "set paths.outputs" in told


@pytest.fixture
def small_disk(tmp_path):
    """Mounts file systems of some kilobytes, where that is permitted."""
    folder = tmp_path / "outputs"
    folder.mkdir()

    def mount(size: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small file system is not permitted here")

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", ["4k", "16k"])
@pytest.mark.parametrize("output", ["mp4", "png", "gif"])
def test_a_full_disk_leaves_nothing(output, size, line, small_disk):
    small_disk(size)
    code, told = line.run(f"output={output}", "height=128", "width=128", "frames=17")
    last = told.splitlines()[-1]
    assert code == 2 and last.startswith("error: disk full while writing"), told
    assert "MiB were free; make room or choose another folder" in last
    assert line.left() == []
    assert not list(line.folder.rglob("*.part"))


def test_a_disk_that_fills_up_behind_the_clip_leaves_the_clip(line, small_disk):
    small_disk("64k")
    code, told = line.run("height=128", "width=128", "frames=17")
    assert code == 2 and "disk full while writing" in told
    assert line.only("video.mp4").stat().st_size > 4096
    assert not [path for path in line.left() if path.name.startswith(".")]


# --- interruption


def interrupted(tmp_path: Path, mark: str, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a process that gets SIGINT when it has printed `mark`."""
    command = [sys.executable, "-c", PROGRAM, *arguments, f"paths.outputs={tmp_path / 'outputs'}"]
    root = str(Path(ltx2.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    assert process.stderr is not None
    with process, process.stderr:
        for told in process.stderr:
            if mark in told:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    return process.returncode, rest


def test_ctrl_c_while_sampling_keeps_a_partial_record(line, tmp_path):
    small = [f"{key}={value}" for key, value in (SMALL | {"scheduler.steps": "500"}).items()]
    code, told = interrupted(tmp_path, "step=2", *small)
    assert code == 130 and told.endswith("interrupted\n") and "Traceback" not in told
    names = sorted(path.name for path in line.left() if path.is_file())
    assert names == ["config.yaml", "run.json", "run.log", "steps.jsonl"]
    told = record(line)
    assert told["status"] == "interrupted" and 3 <= len(told["steps"]) < 500
    assert [phase["phase"] for phase in told["phases"]] == ["text", "load transformer"]


def test_ctrl_c_while_encoding_leaves_no_clip(line, tmp_path):
    size = {"height": "256", "width": "256", "frames": "65"}
    small = [f"{key}={value}" for key, value in (SMALL | size).items()]
    code, told = interrupted(tmp_path, "audio decode:", *small)
    assert code == 130 and told.endswith("interrupted\n") and "Traceback" not in told
    names = sorted(path.name for path in line.left() if path.is_file())
    assert names == ["config.yaml", "run.json", "run.log", "steps.jsonl"]
    assert record(line)["phases"][-1]["phase"] == "audio decode"


# --- results that cannot be right


def bits(dtype: str, data: bytes, half: int, single: float) -> bytes:
    """As many values as in `data`: the bfloat16 pattern `half` or the float32 `single`."""
    if dtype == "F32":
        return np.full(len(data) // 4, single, "<f4").tobytes()
    return np.full(len(data) // 2, half, "<u2").tobytes()


def damaged(raw: Raw, names: str, half: int = 0x7FC0, single: float = np.nan) -> Raw:
    """Every tensor whose name begins with `names` set to one value, by default NaN."""
    return {
        name: (dtype, shape, bits(dtype, data, half, single) if name.startswith(names) else data)
        for name, (dtype, shape, data) in raw.items()
    }


def zeros(raw: Raw, names: str) -> Raw:
    return damaged(raw, names, 0, 0.0)


FAILURES = {
    "text": (
        lambda raw: damaged(raw, "text_embedding_projection"),
        "text: the encoding of prompt 'a red circle",
    ),
    "transformer": (
        lambda raw: damaged(raw, "model.diffusion_model.proj_out"),
        "base step 0 (video): 512 of 512 values are NaN or Inf; likely causes: ",
    ),
    "audio VAE": (
        lambda raw: damaged(raw, "audio_vae.decoder.conv_out"),
        "audio decode: 11840 of 11840 values are NaN or Inf; likely causes: ",
    ),
    "vocoder": (
        lambda raw: damaged(zeros(raw, "vocoder."), "vocoder.conv_post.bias", 0x3F00, 0.5),
        "audio decode: the audio is DC (offset 0.462, rms 0.462); likely causes: ",
    ),
    "video VAE": (
        lambda raw: damaged(raw, "vae.decoder.conv_out"),
        "video decode: 61440 of 61440 values are NaN or Inf; likely causes: ",
    ),
    "black video VAE": (
        lambda raw: zeros(raw, "vae.decoder."),
        "video decode: the clip is one constant colour (std 0.0e+00); likely causes: ",
    ),
}


@pytest.fixture(scope="module")
def pocket():
    return read_raw(CHECKPOINT)


@pytest.fixture
def checkpoint(pocket, tmp_path):
    def write(change) -> str:
        raw, metadata = pocket
        path = write_raw(tmp_path / "pocket.safetensors", change(raw), metadata)
        return f"model.files.checkpoint.file={path}"

    return write


@pytest.mark.parametrize("part", FAILURES)
def test_a_broken_part_is_named_with_its_statistic(part, checkpoint, line):
    change, told = FAILURES[part]
    code, err = line.run(checkpoint(change))
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith(f"error: {told}"), err
    names = sorted(path.name for path in line.left() if path.is_file())
    sampled = [] if part in ("text", "transformer") else ["steps.jsonl"]
    assert names == ["config.yaml", "run.json", "run.log", *sampled]
    assert record(line)["status"] == "failed" and told in record(line)["error"]


@pytest.mark.parametrize("part", ["transformer", "audio VAE", "vocoder", "video VAE"])
def test_a_failure_can_be_saved_on_request(part, checkpoint, line):
    change, told = FAILURES[part]
    code, err = line.run(checkpoint(change), "checks=keep_going")
    assert code == 0 and told in err
    assert any(warning.startswith(told) for warning in record(line)["warnings"])
    assert line.only("video.mp4").stat().st_size > 1000


def test_silence_is_a_warning_and_strictly_an_error(checkpoint, line):
    told = "audio decode: the audio is silent (rms 0.0e+00)"
    weights = checkpoint(lambda raw: zeros(raw, "vocoder."))
    code, err = line.run(weights)
    assert code == 0 and f"WARNING {told}" in err
    assert record(line)["status"] == "completed" and told in record(line)["warnings"]
    code, err = line.run(weights, "checks=strict")
    assert code == 2 and err.endswith(f"error: {told} (checks=warn allows it)\n")


def test_a_dark_still_clip_is_a_warning_and_strictly_an_error(line, tmp_path):
    picture = np.zeros((64, 64, 3), np.float32)
    picture[:, 32:] = 0.03
    with VideoWriter(tmp_path / "dark.mp4", 24) as writer:
        writer.write(np.stack([picture] * 5))
    kept = ("pipeline=video_to_audio", "scheduler.steps=1", f"input.video={tmp_path / 'dark.mp4'}")
    assert line.run(*kept)[0] == 0
    dark, still = record(line)["warnings"]
    assert dark.startswith("video decode: the clip is very dark (mean 0.01")
    assert still == "video decode: the clip is frozen: no frame differs from the one before it"
    code, err = line.run(*kept, "checks=strict")
    assert code == 2 and err.endswith(f"error: {dark} (checks=warn allows it)\n")


# --- the record


def test_the_clip_carries_its_own_record(line):
    assert line.run("seed=3")[0] == 0
    told = record(line)
    assert json.loads(read_comment(line.only("video.mp4")) or "") == told
    assert told["status"] == "completed" and told["seed"] == 3
    assert told["sigmas"] == {"base": [1.0, 0.0]} and told["transformer_calls"] == 1
    assert [step["stage"] for step in told["steps"]] == ["base"]


SETTINGS = {
    "plain": ["pipeline=two_stage", "guidance=cfg", "scheduler.steps=2", "seed=7"],
    "distilled": ["pipeline=distilled", "guidance.kind=none", "sampler=euler_ancestral"],
    "image": [
        "conditioning=image", f"conditioning.image.path={MEDIA / 'image_a.png'}", "snap=true",
        "height=60", "prompt='a: {b}, ${schedules.stage2}'",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recorded_settings_repeat_the_run(name, line, tmp_path):
    assert line.run(*SETTINGS[name], "output=png")[0] == 0
    settings = recorded(line.only("config.yaml"))
    generate(settings, partial(build, settings.backend), tmp_path / "again")
    again = [path.read_bytes() for path in sorted((tmp_path / "again/video").glob("*.png"))]
    assert again == pictures(line) and len(again) == 5
    first, second = (p.read_text() for p in sorted(tmp_path.rglob("config.yaml")))
    assert first == second


@pytest.mark.parametrize("text", ["", "seed: three", "[1, 2]", "a: b: c", "sede: 3"])
def test_another_file_is_no_record(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not the config\.yaml of a run"):
        recorded(path)


def test_a_seed_means_the_same_frames_and_another_one_others(tmp_path, capsys):
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        line = CommandLine(tmp_path / name, capsys)
        assert line.run(f"seed={seed}", "output=png")[0] == 0
        made.append(pictures(line))
    assert made[0] == made[1] and made[0] != made[2]


def test_a_sweep_with_a_cell_that_cannot_run_makes_nothing(line):
    told = line.refused("-m", "height=64,65,32", "output.contact_sheet=false")
    assert told.startswith("cell 1 (height=65): height=65 is not a multiple of 16; use 64 or 80")
