"""The transformer kept between runs: loaded once, and as if it had been loaded anew."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.diary import Extras
from ltx2.experiment.run import generate
from ltx2.experiment.session import Session
from ltx2.media.video import read_video
from ltx2.nn.layers import Linear
from ltx2.pipelines.resident import Resident, resident_mode

QUICK = ["pipeline=one_stage", "scheduler.steps=1", "dtype=fp32"]


def run(folder, session, *overrides, keep="true"):
    """(frames, names of the phases) of a run."""
    backend = make_backend("torch")
    settings = compose([*QUICK, f"keep_loaded={keep}", *overrides])
    clip = generate(settings, lambda: backend, folder, extras=Extras(session=session))
    phases = json.loads((folder / "run.json").read_text())["phases"]
    return read_video(clip)[0], [phase["phase"] for phase in phases]


def kept(session):
    """The roles of the models that a session keeps."""
    return set(session._resident.parts)


def test_the_next_run_finds_the_models_and_makes_the_same_clip(tmp_path):
    session = Session()
    _, first = run(tmp_path / "a", session, "seed=1")
    before = {role: part for role, (_, part) in session._resident.parts.items()}
    again, second = run(tmp_path / "b", session, "seed=2")
    fresh, _ = run(tmp_path / "c", None, "seed=2")
    assert "load transformer" in first and "load transformer" not in second
    assert {"transformer", "video decoder", "audio decoder", "vocoder"} <= set(before)
    assert all(session._resident.parts[role][1] is part for role, part in before.items())
    np.testing.assert_array_equal(again, fresh)


def test_another_dtype_lets_go_of_the_one_model_it_belongs_to(tmp_path):
    session = Session()
    run(tmp_path / "a", session)
    before = {role: part for role, (_, part) in session._resident.parts.items()}
    _, phases = run(tmp_path / "b", session, "dtype.transformer=bf16")
    after = {role: part for role, (_, part) in session._resident.parts.items()}
    assert "load transformer" in phases and after["transformer"] is not before["transformer"]
    assert after["video decoder"] is before["video decoder"]


def test_nothing_is_kept_if_it_is_not_wanted(tmp_path):
    session = Session()
    run(tmp_path / "a", session, keep="false")
    assert not kept(session)


class Crowded:
    """A device with little free memory."""

    def free_bytes(self):
        return 1000

    def free(self):
        pass


def test_auto_keeps_no_model_that_takes_more_than_is_free_beside_it():
    part = Linear(np.zeros((100, 100), np.float32))
    auto, always = Resident("auto"), Resident("true")
    for resident in (auto, always):
        resident.keep("transformer", ("key",), part, Crowded())
    assert auto.find("transformer", ("key",)) is None
    assert always.find("transformer", ("key",)) is part


def test_room_is_made_for_a_model_that_would_not_fit():
    part = Linear(np.zeros((10, 10), np.float32))
    resident = Resident("auto")
    resident.keep("transformer", ("key",), part, Crowded())
    resident.make_room(900, Crowded())
    assert resident.find("transformer", ("key",)) is part
    resident.make_room(1100, Crowded())
    assert resident.find("transformer", ("key",)) is None


def test_an_unknown_wish_is_refused():
    with pytest.raises(UserError, match="keep_loaded=yes is unknown; use auto, true, false"):
        resident_mode("yes")
