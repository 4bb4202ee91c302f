"""The metric pocket_adherence: the prompt against rendered clips."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from metric_clips import clip_of, measure

from ltx2.app.build import build
from ltx2.errors import UserError
from ltx2.experiment.metrics.pocket import PocketAdherence
from ltx2.pocket.captions import caption
from ltx2.pocket.world import Scene, Take, Thing

RATE = 16_000
BALL = Thing("circle", "red", "big", "bouncing", "fast")
SCENE = Scene("black", (BALL,))


def measured(scene, prompt, with_sound=True, with_pictures=True):
    """The numbers for a clip of `scene` as if it were made from `prompt`."""
    take = Take.draw(scene, np.random.default_rng(0))
    frames = take.frames(25, 64, 96)
    sound = take.sound(25 / 24, RATE, 1.5) if with_sound else None
    clip = frames if with_pictures else None
    return measure(PocketAdherence(), clip, sound, RATE, prompt=prompt, count=25)


def known(found):
    return {name for name, value in found.items() if not math.isnan(value)}


def test_a_clip_of_its_prompt_is_right_in_all_that_is_named():
    found = measured(SCENE, caption(SCENE))
    assert set(found) == set(PocketAdherence.names)
    # That there is sound, and no flaw, is left unsaid.
    assert known(found) == set(found) - {"pocket_sound", "pocket_flaw", "pocket_pan"}
    assert found.pop("pocket_sync") < 0.02
    assert {found[name] for name in known(found)} == {1.0}


def test_each_wrong_word_lowers_its_number_and_the_share():
    said = ("background", "count", "colour", "shape", "size", "motion", "speed", "pitch")
    cases = {
        "colour": replace(BALL, colour="green"), "shape": replace(BALL, shape="square"),
        "size": replace(BALL, size="small"), "speed": replace(BALL, speed="slow"),
    }  # fmt: skip
    for name, thing in cases.items():
        found = measured(SCENE, caption(Scene("black", (thing,))))
        wrong = {"colour", "pitch"} if name == "colour" else {name}
        assert {key for key in said if found[f"pocket_{key}"] == 0} == wrong
        assert found["pocket_adherence"] == pytest.approx(1 - len(wrong) / len(said))


def test_of_two_things_each_counts_for_half():
    pair = Scene("white", (BALL, Thing("square", "blue", "small")))
    other = replace(pair, things=(BALL, replace(pair.things[1], shape="cross")))
    found = measured(pair, caption(other))
    assert found["pocket_shape"] == 0.5 and found["pocket_colour"] == 1
    assert found["pocket_adherence"] == pytest.approx(1 - 1 / 13)


def test_only_what_the_prompt_names_counts():
    found = measured(SCENE, "a red shape, a thing of beauty")
    named = {"adherence", "count", "colour", "pitch", "sync"}
    assert known(found) == {f"pocket_{name}" for name in named}
    nothing = measured(SCENE, "the sea at night")
    assert known(nothing) == {"pocket_sync"}


def test_silence_that_is_asked_for_is_measured():
    hushed = measured(replace(SCENE, sound=False), "a red ball in silence")
    assert hushed["pocket_sound"] == 1 and math.isnan(hushed["pocket_pitch"])
    assert measured(SCENE, "a red ball in silence")["pocket_sound"] == 0


def test_pictures_alone_and_sound_alone_are_judged_by_what_they_are():
    mute = measured(SCENE, caption(SCENE), with_sound=False)
    assert mute["pocket_adherence"] == 1 and math.isnan(mute["pocket_pitch"])
    unseen = measured(SCENE, caption(SCENE), with_pictures=False)
    assert known(unseen) == {"pocket_adherence", "pocket_pitch"}
    assert unseen["pocket_pitch"] == 1


def test_pan_follows_the_thing():
    scene = Scene("teal", (replace(BALL, motion="left"),))
    assert measured(scene, "a ball")["pocket_pan"] > 0.95


def test_another_model_is_refused_before_anything_is_computed():
    metric = build({"_target_": "ltx2.experiment.metrics.pocket.PocketAdherence"})
    with pytest.raises(UserError, match=r"reads the world of the pocket model, not model=dev"):
        metric.start(replace(clip_of(), model="dev"))
    for name in ("pocket", "pocket-distilled", "path", ""):
        metric.start(replace(clip_of(), model=name))
