"""What `ltx2 diff` finds between runs whose differences are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx2.cli import main as ltx2
from ltx2.experiment.compare import Distance, compare
from ltx2.experiment.reproduce import load_run
from ltx2.media.audio import write_wav
from ltx2.media.images import write_png

SETTINGS = {
    "seed": 1,
    "paths": {"outputs": "here"},
    "pipeline": {"name": "one_stage", "stages": [{"name": "base", "scale": 1.0}]},
}
STEP = {"stage": "base", "step": 0, "sigma": 1.0, "video_mean": 0.5, "video_std": 1.0}


def run_in(folder: Path, latents=None, after=None, frames=(), sound=None, **record) -> Path:
    """A finished run made by hand."""
    (folder / "latents").mkdir(parents=True)
    content = {"status": "completed", "versions": {"numpy": "1"}, "settings": SETTINGS} | record
    (folder / "run.json").write_text(json.dumps(content))
    if latents is not None:
        save_file({"video": latents}, folder / "latents" / "base.safetensors")
    if after is not None:
        named = {f"video.{i:03d}": value for i, value in enumerate(after)}
        save_file(named, folder / "latents" / "base.steps.safetensors")
    if len(frames):
        (folder / "video").mkdir()
        for i, frame in enumerate(frames):
            write_png(folder / "video" / f"{i:05d}.png", frame)
        if sound is not None:
            write_wav(folder / "video" / "audio.wav", sound, 8000)
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two runs made by hand and what is found between them."""

    def made(first, second):
        folders = run_in(tmp_path / "a", **first), run_in(tmp_path / "b", **second)
        return compare(*(load_run(folder) for folder in folders))

    return made


def grey(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


def test_equal_runs_have_no_differences(pair):
    one = {
        "latents": np.ones((1, 2, 2, 2, 4), np.float32),
        "after": [np.ones((1, 8, 4), np.float32)],
        "frames": [grey(9)],
        "metrics": {"brightness": 0.5},
    }
    found = pair(one, one)
    assert (found.config, found.environment) == ([], [])
    assert found.metrics == [("brightness", 0.5, 0.5)]
    assert found.steps == [
        {"stage": "base", "step": 0, "stream": "video", "max": 0.0, "relative": 0.0}
    ]
    assert found.frames == {
        "counts": [1, 1], "identical": True, "psnr": None, "max": 0, "first_different": None
    }  # fmt: skip


def test_settings_differ_by_dotted_key_and_folders_do_not_count(pair):
    other = json.loads(json.dumps(SETTINGS))
    other["seed"], other["paths"]["outputs"] = 2, "there"
    other["pipeline"]["stages"][0]["scale"] = 0.5
    found = pair({}, {"settings": other, "versions": {"numpy": "2", "python": "3"}})
    assert [(d.key, d.first, d.second) for d in found.config] == [
        ("seed", 1, 2),
        ("pipeline.stages.0.scale", 1.0, 0.5),
    ]
    assert [(d.key, d.first, d.second) for d in found.environment] == [("versions.numpy", "1", "2")]


def test_latents_differ_by_their_largest_and_their_relative_error(pair):
    first = np.full((1, 2, 2, 2, 4), 2.0, np.float32)
    second = first.copy()
    second[0, 0, 0, 0, 0] = 2.5
    found = pair({"latents": first, "after": [first, first]}, {"latents": second, "after": [first]})
    (row,) = found.latents
    assert row["max"] == 0.5
    assert row["relative"] == pytest.approx(0.5 / math.sqrt(32) / 2)
    # The second run stopped after one step.
    assert [(r["step"], r["max"]) for r in found.steps] == [(0, 0.0)]


def test_without_latents_the_statistics_of_the_steps_are_compared(pair):
    found = pair({"steps": [STEP, STEP | {"step": 1}]}, {"steps": [STEP | {"video_mean": 0.75}]})
    (row,) = found.statistics
    assert (row["stage"], row["step"]) == ("base", 0)
    assert (row["video_mean"], row["video_std"]) == ([0.5, 0.75], [1.0, 1.0])


def test_frames_differ_by_psnr_maximum_and_the_first_one(pair):
    found = pair({"frames": [grey(9), grey(9)]}, {"frames": [grey(9), grey(19), grey(0)]})
    assert found.frames is not None
    # Ten levels in one of two frames: a mean square of 50.
    assert found.frames["psnr"] == pytest.approx(10 * math.log10(255**2 / 50))
    assert (found.frames["counts"], found.frames["max"]) == ([2, 3], 10)
    assert found.frames["first_different"] == 1
    assert not found.frames["identical"]


def test_frames_of_another_size_are_not_compared(pair):
    found = pair({"frames": [grey(0)]}, {"frames": [np.zeros((8, 16, 3), np.uint8)]})
    assert found.frames == {"problem": "their sizes differ: 8x8 and 16x8"}


def test_sound_differs_by_its_largest_sample(pair):
    wave = np.zeros((2, 80), np.float32)
    loud = wave.copy()
    loud[1, 7] = 0.5
    found = pair({"frames": [grey(0)], "sound": wave}, {"frames": [grey(0)], "sound": loud[:, :60]})
    assert found.sound is not None
    assert found.sound["max"] == pytest.approx(0.5, abs=1e-4)  # 16-bit samples
    assert (found.sound["samples"], found.sound["identical"]) == ([80, 60], False)


def test_what_one_run_lacks_is_left_out(pair):
    found = pair({"frames": [grey(0)], "latents": np.ones((1, 1), np.float32)}, {})
    assert (found.frames, found.sound, found.latents, found.steps) == (None, None, [], [])


@pytest.mark.parametrize(
    ("first", "second", "largest", "relative"),
    [
        ([3, 4], [3, 4], 0, 0),
        ([3, 4], [3, 9], 5, 1),
        ([0, 0], [0, 0], 0, 0),
        ([0], [1], 1, math.inf),
    ],
)
def test_distance(first, second, largest, relative):
    found = Distance.of(np.array(first, np.float32), np.array(second, np.float32))
    assert found is not None
    assert (found.max, found.relative) == (largest, pytest.approx(relative))
    assert Distance.of(np.zeros(2), np.zeros(3)) is None


def test_diff_prints_every_part_and_exits_with_0(tmp_path, capsys):
    first = run_in(tmp_path / "a", metrics={"brightness": 0.5}, frames=[grey(9)], steps=[STEP])
    other = json.loads(json.dumps(SETTINGS)) | {"seed": 2}
    second = run_in(
        tmp_path / "b",
        metrics={"brightness": 0.75},
        frames=[grey(19)],
        steps=[STEP | {"video_mean": 0.25}],
        settings=other,
    )
    assert ltx2(["diff", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["seed", "1", "2"] in lines
    assert ["brightness", "0.5", "0.75", "+0.25"] in lines
    assert ["base", "0", "video_mean", "0.5", "0.25"] in lines
    assert "frames: 1, PSNR 28.13 dB, largest difference 10 of 255, from frame 0 on" in shown
    assert ltx2(["diff", "--json", str(first), str(second)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["brightness"]["delta"] == 0.25
    assert found["config"] == [{"key": "seed", "first": 1, "second": 2}]


def test_diff_of_something_that_is_no_run_is_one_line(tmp_path, capsys):
    run = run_in(tmp_path / "a")
    assert ltx2(["diff", str(run), str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert "absent does not exist; name a run's folder or a clip" in error
    assert error.count("\n") == 1
