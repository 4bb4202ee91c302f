"""The transformer kept between runs: loaded once, and as if it had been loaded anew."""

from __future__ import annotations

import json

import numpy as np
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.experiment.run import generate
from ltx2.media.video import read_video
from ltx2.pipelines.resident import Resident

QUICK = ["pipeline=one_stage", "scheduler.steps=1", "dtype=fp32"]


def run(folder, resident, *overrides, keep="true"):
    """(frames, names of the phases) of a run."""
    backend = make_backend("torch")
    settings = compose([*QUICK, f"keep_loaded={keep}", *overrides])
    clip = generate(settings, lambda: backend, folder, resident=resident)
    phases = json.loads((folder / "run.json").read_text())["phases"]
    return read_video(clip)[0], [phase["phase"] for phase in phases]


def test_the_next_run_finds_the_transformer_and_makes_the_same_clip(tmp_path):
    resident = Resident()
    _, first = run(tmp_path / "a", resident, "seed=1")
    kept, second = run(tmp_path / "b", resident, "seed=2")
    fresh, _ = run(tmp_path / "c", None, "seed=2")
    assert "load transformer" in first and "load transformer" not in second
    np.testing.assert_array_equal(kept, fresh)


def test_another_dtype_or_build_lets_go_of_it(tmp_path):
    resident = Resident()
    run(tmp_path / "a", resident)
    before = resident.transformer
    _, phases = run(tmp_path / "b", resident, "dtype.transformer=bf16")
    assert "load transformer" in phases and resident.transformer is not before


def test_nothing_is_kept_unless_asked(tmp_path):
    resident = Resident()
    run(tmp_path / "a", resident, keep="false")
    assert resident.transformer is None
