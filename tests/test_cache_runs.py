"""Runs with a cache: what is reused, that it is the same, and going on after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import make_backend
from safetensors.numpy import load_file

from ltx2.app.compose import compose
from ltx2.experiment.diary import Extras
from ltx2.experiment.run import generate
from ltx2.media.audio import read_audio
from ltx2.media.video import read_video
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.watching import Stopped

ROOT = Path(__file__).parent.parent
QUICK = ["frames=9", "height=64", "width=64", "scheduler.steps=2", "dtype=fp32"]


def run(folder, *overrides, backend="torch", cache=None):
    """(clip, record) of a run whose cache lies beside its folder."""
    made = make_backend(backend)
    settings = compose([*QUICK, f"cache.folder={cache or folder.parent / 'cache'}", *overrides])
    clip = generate(settings, lambda: made, folder, extras=Extras(cache=settings.cache))
    return clip, json.loads((folder / "run.json").read_text())


def actions(record):
    return {stage["name"]: stage["action"] for stage in record["stages"]}


def same(first, second):
    np.testing.assert_array_equal(read_video(first)[0], read_video(second)[0])
    np.testing.assert_array_equal(read_audio(first)[0], read_audio(second)[0])


def test_a_repeated_run_computes_nothing_and_gives_the_same_clip(tmp_path, backend):
    kind = backend.describe()["backend"]
    first, cold = run(tmp_path / "a", backend=kind)
    second, warm = run(tmp_path / "b", backend=kind)
    assert set(actions(cold).values()) == {"computed"}
    assert set(actions(warm).values()) == {"reused"}
    assert cold["steps"] == warm["steps"] and len(warm["steps"]) == 5
    same(first, second)
    # Without a cache, too: what is kept is what is shown.
    third, plain = run(tmp_path / "c", "cache=off", backend=kind)
    assert set(actions(plain).values()) == {"computed"}
    same(first, third)


@pytest.mark.parametrize(
    ("override", "computed"),
    [
        ("output=webm", set()),
        ("tiling.mode=size tiling.width=32 tiling.width_overlap=16 tiling=size", {"picture"}),
        ("schedules.stage2=[0.9,0.0]", {"refine", "picture"}),
        ("seed=2", {"base", "upscale", "refine", "sound", "picture"}),
    ],
)
def test_what_an_option_does_not_touch_is_reused(tmp_path, override, computed):
    run(tmp_path / "a")
    given = [text for text in override.split() if text != "tiling=size"]
    clip, warm = run(tmp_path / "b", *given)
    assert {name for name, action in actions(warm).items() if action == "computed"} == computed
    fresh, _ = run(tmp_path / "c", *given, "cache=off")
    same(clip, fresh)


def test_a_later_stage_draws_what_it_would_have_drawn_in_one_go(tmp_path):
    """The first stage from the cache: its draws are skipped, the refiner's noise is the run's."""
    run(tmp_path / "a", "save_latents=true")
    run(tmp_path / "b", "schedules.stage2=[0.9,0.5,0.0]", "save_latents=true")
    run(tmp_path / "c", "schedules.stage2=[0.9,0.5,0.0]", "save_latents=true", "cache=off")
    reused = load_file(tmp_path / "b" / "latents" / "refine.safetensors")
    fresh = load_file(tmp_path / "c" / "latents" / "refine.safetensors")
    for name in fresh:
        np.testing.assert_array_equal(reused[name], fresh[name])


def test_conditions_and_text_are_reused_across_seeds(tmp_path):
    image = ROOT / "ltx2" / "pocket" / "examples"
    picture = next(image.glob("*.png"))
    given = ["conditioning=image", f"conditioning.image.path={picture}"]
    run(tmp_path / "a", *given)
    kinds = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")}
    _, warm = run(tmp_path / "b", *given, "seed=2")
    assert actions(warm)["text"] == "reused"
    assert warm["text"] and warm["text"][0]["tokens"] > 0
    added = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")} - kinds
    # Latents of three stages, sound and picture; no condition and no text anew.
    assert len(added) == 5


def test_a_damaged_entry_is_computed_again(tmp_path):
    first, cold = run(tmp_path / "a")
    for stage in cold["stages"]:
        if stage["name"] in ("refine", "picture"):
            path = tmp_path / "cache" / stage["key"][:2] / f"{stage['key']}.safetensors"
            data = bytearray(path.read_bytes())
            data[-5] ^= 255
            path.write_bytes(data)
    second, warm = run(tmp_path / "b")
    found = actions(warm)
    assert found["refine"] == found["picture"] == "computed" and found["base"] == "reused"
    same(first, second)


def test_refresh_computes_everything_again(tmp_path):
    run(tmp_path / "a")
    _, record = run(tmp_path / "b", "cache=refresh")
    assert set(actions(record).values()) == {"computed"}


def test_results_that_failed_a_check_are_not_kept(tmp_path):
    run(tmp_path / "a", "checks=off")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_cache_that_cannot_be_written_does_not_stop_a_run(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    clip, record = run(tmp_path / "a", cache=blocker / "cache")
    assert record["status"] == "completed" and clip.exists()


def test_frames_of_large_clips_are_not_kept(tmp_path):
    run(tmp_path / "a", "cache.media_mb=0")
    _, warm = run(tmp_path / "b", "cache.media_mb=0")
    assert actions(warm)["picture"] == "computed" and actions(warm)["refine"] == "reused"


def test_the_steps_latents_are_saved_when_asked_for(tmp_path):
    run(tmp_path / "a", "save_steps=true", "save_latents=true")
    steps = load_file(tmp_path / "a" / "latents" / "base.steps.safetensors")
    assert sorted(steps) == ["audio.000", "audio.001", "video.000", "video.001"]
    last = load_file(tmp_path / "a" / "latents" / "base.safetensors")["video"]
    np.testing.assert_array_equal(steps["video.001"].reshape(last.shape), last)


# --- going on after an interruption


class StopAfter:
    """Asks the run to stop when a stage has made some steps."""

    def __init__(self, steps):
        self.left = steps

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0

    def deferred(self):
        import contextlib

        return contextlib.nullcontext()


def interrupted(folder, monkeypatch, *overrides, after):
    """Run until `after` steps are done; the calls of the transformer in a second run."""
    from ltx2.experiment import run as module

    monkeypatch.setattr(module, "Interrupt", lambda: _Context(StopAfter(after)))
    with pytest.raises(Stopped):
        run(folder / "a", *overrides)
    monkeypatch.undo()
    calls = []
    original = Runner._denoised

    def counted(self, stage, states, transformer, contexts, sampler):
        class Counting:
            def __call__(self, *given):
                calls.append(stage.name)
                return transformer(*given)

            def __getattr__(self, name):
                return getattr(transformer, name)

        return original(self, stage, states, Counting(), contexts, sampler)

    monkeypatch.setattr(Runner, "_denoised", counted)
    clip, record = run(folder / "b", *overrides)
    monkeypatch.undo()
    return clip, record, calls


class _Context:
    def __init__(self, stop):
        self.stop, self.signals = stop, 1

    def __getattr__(self, name):
        return getattr(self.stop, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


SAMPLERS = ["euler", "euler_ancestral", "gradient_estimation", "res_2s"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_stage_goes_on_where_it_was(tmp_path, monkeypatch, sampler):
    given = ["pipeline=one_stage", "scheduler.steps=6", f"sampler={sampler}", "guidance=cfg"]
    clip, record, calls = interrupted(tmp_path, monkeypatch, *given, after=4)
    fresh, whole = run(tmp_path / "c", *given, "cache=off")
    same(clip, fresh)
    assert 0 < len(calls) < whole["transformer_calls"]
    assert len(record["steps"]) == len(whole["steps"])
    assert not list((tmp_path / "cache" / "running").glob("*"))


def test_guidance_that_remembers_begins_the_stage_anew(tmp_path, monkeypatch):
    given = ["pipeline=one_stage", "scheduler.steps=6", "guidance=apg_momentum"]
    clip, _, calls = interrupted(tmp_path, monkeypatch, *given, after=4)
    fresh, whole = run(tmp_path / "c", *given, "cache=off")
    same(clip, fresh)
    assert len(calls) == len(whole["steps"])  # one call per step, none of them replayed


def test_a_killed_run_loses_no_finished_stage(tmp_path):
    """kill -9 in the second stage: the first is not computed again."""
    command = [sys.executable, "launch.py", *QUICK, f"paths.outputs={tmp_path}"]
    command += ["schedules.stage2=" + str([round(1 - i / 400, 6) for i in range(1, 400)] + [0.0])]
    command = [text.replace(" ", "") for text in command]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        steps = [s for path in tmp_path.rglob("steps.jsonl") for s in path.read_text().splitlines()]
        if any('"refine"' in step for step in steps):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any('"refine"' in step for step in steps)
    command[-1] = "schedules.stage2=[0.9,0.0]"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (record,) = (json.loads(path.read_text()) for path in tmp_path.rglob("run.json"))
    assert actions(record)["base"] == actions(record)["upscale"] == "reused"
