"""Rendered scenes read back from pixels and samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.pocket.checker import compare, read_clip
from ltx2.pocket.reading import SaidScene, SaidThing
from ltx2.pocket.world import FLAWS, MOTIONS, PITCHES_HZ, SHAPES, Scene, Take, Thing, draw_scene

RATE, FPS = 16_000, 12
RED = Thing("circle", "red", "big", "right", "fast")
SCENE = Scene("black", (RED,))


def rendered(scene, rng=None, frames=25, size=(64, 96)):
    """Frames, sound and rate of a take."""
    take = Take.draw(scene, rng or np.random.default_rng(0))
    sound = take.sound(frames / FPS, RATE, size[1] / size[0])
    return take.frames(frames, *size), sound, RATE


def softened(clip, rng):
    """As a decoder leaves it: a Gaussian of 1 pixel at 64, noise of 0.03."""
    sigma = min(clip.shape[1:3]) / 64
    reach = np.arange(-8, 9)
    kernel = np.exp(-((reach / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (1, 2):
        padded = np.pad(clip, [(8, 8) if a == axis else (0, 0) for a in range(4)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 17, axis)
        clip = windows @ kernel
    return np.clip(clip + rng.normal(0, 0.03, clip.shape), 0, 1).astype(np.float32)


def rates(scenes, frames, size, soft, seed=1):
    """Share of right readings by attribute."""
    rng = np.random.default_rng(seed)
    known, right = Counter(), Counter()
    for scene in scenes:
        clip, sound, rate = rendered(scene, rng, frames, size)
        clip = softened(clip, rng) if soft else (clip * 255 + 0.5).astype(np.uint8)
        found = compare(read_clip(clip, sound, rate), scene)
        for name, value in (found.attributes() | {"everything": found.everything}).items():
            known[name] += value is not None
            right[name] += value is True
    assert known["everything"] == len(scenes)
    return {name: right[name] / known[name] for name in known if known[name]}


def scenes(count, things=1, seed=0, flawed=0.0):
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, pairs=float(things - 1), flawed=flawed) for _ in range(count)]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("size", "frames", "things"),
    [((64, 64), 17, 1), ((64, 96), 25, 1), ((96, 64), 33, 1), ((64, 96), 25, 2),
     ((128, 192), 17, 2)],
)  # fmt: skip
def test_every_attribute_is_read_back(size, frames, things, soft):
    found = rates(scenes(8, things), frames, size, soft)
    assert set(found.values()) == {1.0}, found


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("size", "things", "least"),
    [((64, 64), 1, 0.995), ((64, 96), 1, 0.995), ((96, 64), 1, 0.995), ((128, 192), 1, 0.995),
     ((64, 96), 2, 0.99), ((128, 192), 2, 0.99)],
)  # fmt: skip
def test_hundreds_of_scenes_are_read_back(size, things, least, soft):
    count = 200 if soft or min(size) > 64 else 1000
    found = rates(scenes(count, things, seed=3), 25, size, soft)
    assert min(found.values()) >= least, found


@pytest.mark.parametrize("flaw", FLAWS)
def test_flaws_are_seen_and_hide_nothing_else(flaw):
    made = [replace(scene, flaw=flaw) for scene in scenes(8, seed=4)]
    found = rates(made, 25, (64, 96), soft=False)
    assert set(found.values()) == {1.0}, found
    clean = [read_clip(*rendered(scene)).flaw for scene in scenes(8, seed=4)]
    assert set(clean) == {""}


def test_a_reading_says_what_was_seen_and_heard():
    reading = read_clip(*rendered(SCENE))
    (thing,) = reading.things
    assert (reading.background, reading.silent, reading.flaw) == ("black", False, "")
    assert (thing.shape, thing.colour, thing.size) == ("circle", "red", "big")
    assert (thing.motion, thing.speed) == ("right", "fast")
    assert thing.pitch_hz == pytest.approx(PITCHES_HZ["red"], abs=1)
    assert thing.pan > 0.99 and thing.pan_distance < 0.05 and thing.sync_seconds is None


def test_words_that_do_not_come_true_are_false_and_all_others_stay_true():
    reading = read_clip(*rendered(SCENE))
    cases = {
        "colour": replace(RED, colour="green"), "shape": replace(RED, shape="cross"),
        "size": replace(RED, size="small"), "motion": replace(RED, motion="up"),
        "speed": replace(RED, speed="slow"),
    }  # fmt: skip
    also = {"colour": {"pitch"}, "motion": {"speed"}}
    for name, thing in cases.items():
        found = compare(reading, Scene("black", (thing,)))
        wrong = {key for key, right in found.attributes().items() if right is False}
        assert wrong == {name} | also.get(name, set())
        assert found.picture is False and found.audio is (name != "colour")
    wrong = compare(reading, Scene("white", (RED,), sound=False)).attributes()
    assert [key for key, right in wrong.items() if right is False] == ["background", "sound"]
    assert compare(reading, SCENE).everything


def test_what_is_not_said_is_not_judged():
    reading = read_clip(*rendered(SCENE))
    found = compare(reading, SaidScene(things=(SaidThing(colour="red"),))).attributes()
    assert {name for name, right in found.items() if right is not None} == {
        "count", "colour", "pitch", "pan",
    }  # fmt: skip
    found = compare(reading, SaidScene()).attributes()
    assert set(found.values()) == {None}


def test_sound_from_the_wrong_side_or_of_the_wrong_pitch_is_heard():
    clip, sound, rate = rendered(SCENE)
    mirrored = compare(read_clip(clip, sound[::-1], rate), SCENE)
    assert mirrored.attributes()["pan"] is False and mirrored.picture and not mirrored.audio
    other = rendered(Scene("black", (replace(RED, colour="blue"),)))[1]
    assert compare(read_clip(clip, other, rate), SCENE).attributes()["pitch"] is False
    hushed = compare(read_clip(clip, sound * 1e-3, rate), SCENE)
    assert hushed.sound is False


@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_clicks_are_timed_against_ground_contacts(speed):
    scene = Scene("black", (replace(RED, motion="bouncing", speed=speed),))
    clip, sound, rate = rendered(scene)
    assert read_clip(clip, sound, rate).things[0].sync_seconds < 0.015
    for late in (0.06, 0.12):
        moved = np.pad(sound, ((0, 0), (round(late * rate), 0)))[:, : sound.shape[1]]
        found = read_clip(clip, moved, rate)
        assert found.things[0].sync_seconds == pytest.approx(late, abs=0.015)
        assert compare(found, scene).things[0].sync is (late < 0.08)


def test_missing_and_surplus_things_count():
    pair = Scene("white", (RED, Thing("square", "blue", "small")))
    one, two = read_clip(*rendered(replace(SCENE, background="white"))), read_clip(*rendered(pair))
    assert len(one.things) == 1 and len(two.things) == 2
    found = compare(one, pair)
    assert found.count is False and found.things[0].colour and not found.things[1].colour
    surplus = compare(two, Scene("white", pair.things[1:]))
    assert surplus.count is False and surplus.things[0].colour and surplus.things[0].shape


def test_an_empty_clip_has_a_background_and_nothing_else():
    rng = np.random.default_rng(0)
    clip = np.full((17, 64, 64, 3), (0.0, 0.45, 0.45), np.float32) + rng.normal(
        0, 0.02, (17, 64, 64, 3)
    )
    reading = read_clip(clip)
    assert reading.things == () and reading.background == "teal" and reading.silent is None
    found = compare(reading, SCENE)
    assert found.count is False and found.things[0].colour is False and found.sound is None


def test_a_thing_that_jumps_about_has_another_motion():
    rng = np.random.default_rng(0)
    still = Scene("black", (replace(RED, motion="still", size="small"),))
    clip = rendered(still, frames=1)[0][0]
    places = rng.integers(-12, 13, (25, 2))
    jumping = np.stack([np.roll(clip, tuple(place), (0, 1)) for place in places])
    assert read_clip(jumping).things[0].motion == "other"


def test_too_few_frames_tell_the_picture_but_no_motion():
    reading = read_clip(rendered(SCENE)[0][:1])
    (thing,) = reading.things
    assert (thing.shape, thing.colour, thing.motion) == ("circle", "red", None)
    assert compare(reading, SCENE).things[0].motion is None


def test_sound_alone_tells_pitch_and_silence():
    reading = read_clip(None, *rendered(SCENE)[1:])
    assert reading.silent is False and reading.background is None
    found = {name: right for name, right in compare(reading, SCENE).attributes().items() if right}
    assert set(found) == {"sound", "pitch"}


def test_levels_sizes_and_types_make_no_difference():
    clip, sound, rate = rendered(SCENE, size=(128, 192))
    large = np.repeat(np.repeat(clip, 3, 1), 3, 2)
    for other in (large, (clip * 255 + 0.5).astype(np.uint8), clip.astype(np.float64)):
        assert compare(read_clip(other, sound, rate), SCENE).everything
    assert compare(read_clip(clip * 0.97 + 0.01, sound * 0.8, rate), SCENE).everything


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_shape_is_told_in_every_motion(shape, motion):
    scene = Scene("brown", (Thing(shape, "orange", "small", motion),))
    assert compare(read_clip(*rendered(scene)), scene).everything


def test_what_is_no_clip_is_refused_with_its_shape():
    with pytest.raises(UserError, match=r"frames of shape \(64, 64, 3\) are no clip"):
        read_clip(np.zeros((64, 64, 3)))
    with pytest.raises(UserError, match=r"sound of shape \(100,\) at 16000 Hz"):
        read_clip(np.zeros((17, 64, 64, 3)), np.zeros(100), 16_000)
