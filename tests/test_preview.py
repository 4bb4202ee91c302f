"""Previews while a stage is sampled: what they show, that they change nothing, what they cost."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from conftest import BACKENDS, make_backend
from safetensors.numpy import load_file

from ltx2.app.compose import compose
from ltx2.cli import main
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.images import read_image
from ltx2.models.tiling import decode_frames
from ltx2.pipelines.components.video import load_video_decoder
from ltx2.pipelines.phases import Phases
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.progress import Quiet

SMALL = ["height=64", "width=64", "frames=9", "scheduler.steps=4", "dtype=fp32", "output=png"]


def run(folder, backend, *overrides):
    generate(compose([*SMALL, *overrides]), lambda: backend, folder)
    return folder


def names(folder):
    return sorted(path.name for path in folder.glob("previews/*"))


def record(folder):
    return json.loads((folder / "run.json").read_text())


def decoded(folder, backend):
    """Each latent frame of the finished base stage, decoded as a clip of one frame."""
    header = make_plan(compose(SMALL)).headers["checkpoint"]
    decoder = load_video_decoder(header, backend, "fp32")
    video = backend.array(load_file(folder / "latents" / "base.safetensors")["video"])
    with backend.inference():
        parts = [next(decode_frames(decoder, video[:, i : i + 1], None)) for i in range(3)]
    return np.concatenate(parts) * 255


def test_the_preview_of_the_last_step_shows_the_latent_frames_of_the_result(backend, tmp_path):
    run(tmp_path, backend, "pipeline=one_stage", "preview.every=2", "save_latents=true")
    assert names(tmp_path) == ["base-002.png", "base-004.png"]
    early, late = (read_image(tmp_path / "previews" / name) for name in names(tmp_path))
    # Three latent frames in one row of 64 px tiles with borders of 2 px.
    assert late.shape == (68, 3 * 66 + 2, 3)
    # The last step's estimate is the result.
    for index, frame in enumerate(decoded(tmp_path, backend)):
        left = 2 + 66 * index
        tiles = [picture[2:66, left : left + 64] for picture in (early, late)]
        assert np.abs(tiles[1] - frame).max() <= 1
        assert np.abs(tiles[0] - frame).mean() > 2


def test_previews_change_nothing_of_the_clip(tmp_path):
    backend = make_backend(BACKENDS[0])
    plain = run(tmp_path / "plain", backend, "save_latents=true", "seed=5")
    shown = run(tmp_path / "shown", backend, "save_latents=true", "seed=5", "preview.every=1")
    assert names(shown) == [f"base-00{i}.png" for i in range(1, 5)] + [
        f"refine-00{i}.png" for i in range(1, 4)
    ]
    for stage in ("base", "refine"):
        first, second = (load_file(f / "latents" / f"{stage}.safetensors") for f in (plain, shown))
        for stream, value in first.items():
            np.testing.assert_array_equal(second[stream], value)
    assert names(plain) == []


def test_previews_have_seconds_and_a_decoder_of_their_own_in_the_record(tmp_path):
    told = record(run(tmp_path, make_backend(BACKENDS[0]), "pipeline=one_stage", "preview.every=1"))
    seconds = {row["phase"]: row["seconds"] for row in told["phases"]}
    assert seconds["base previews"] > 0
    # Steps are inside the phase, previews are not: the rest is building states.
    assert sum(step["seconds"] for step in told["steps"]) <= seconds["base"] + 0.01
    previews = told["statistics"]["previews"]
    assert previews["count"] == 4
    assert previews["decoder_bytes"] == 4 * (previews["decoder_bytes"] // 4) > 1e6


def spin(seconds):
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        pass


def test_time_aside_is_no_time_of_the_phase():
    phases = Phases(make_backend(BACKENDS[0]))
    start = time.monotonic()
    with phases.phase("base", 1, Quiet()):
        for _ in range(2):
            with phases.aside("base previews", Quiet()):
                spin(0.1)
    spent = time.monotonic() - start
    base, previews = phases.records
    assert (base.phase, previews.phase) == ("base", "base previews")
    assert previews.seconds >= 0.2
    assert base.seconds + previews.seconds == pytest.approx(spent, abs=0.02)
    with phases.phase("refine", 1, Quiet()):
        pass
    assert [row.phase for row in phases.records] == ["base", "base previews", "refine"]


def test_a_preview_that_cannot_be_written_costs_no_clip(tmp_path, caplog):
    (tmp_path / "previews").write_text("in the way")
    run(tmp_path, make_backend(BACKENDS[0]), "pipeline=one_stage", "preview.every=1")
    told = record(tmp_path)
    assert told["status"] == "completed"
    assert told["statistics"]["previews"]["failed"].startswith("FileExistsError")
    warnings = [r.message for r in caplog.records if "no more previews" in r.message]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["preview.every=-1"], "preview.every=-1 is negative; use 0 .none. or for example 5"),
        (["preview.every=13"], "preview.every=13 is more than the 12 steps of the longest stage"),
        (["preview.every=1", "pipeline=text_to_audio"], "pipeline=text_to_audio samples no pict"),
        (["on_interrupt=decod"], "on_interrupt=decod is unknown; did you mean 'decode'"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, line):
    with pytest.raises(UserError, match=line):
        make_plan(compose(options))


def test_previews_of_sound_are_refused_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline=text_to_audio", "preview.every=2"]) == 2
    assert capsys.readouterr().err == (
        "error: preview.every has no effect: pipeline=text_to_audio samples no pictures; drop it\n"
    )
