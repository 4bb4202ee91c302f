"""The pocket world: where things are, what is rendered, and what it sounds like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltx2.pocket.captions import caption, random_caption, vocabulary
from ltx2.pocket.world import (
    BACKGROUNDS,
    CLICK_HZ,
    COLOURS,
    CONTACTS,
    COVERED,
    DIRECTIONS,
    GROWTH,
    LOUDNESS,
    MARGIN,
    MOTIONS,
    PITCHES_HZ,
    SHAPES,
    SPEEDS,
    TURNS,
    Scene,
    Take,
    Thing,
    draw_scene,
    held_out_scene,
    reach_of,
    training_scene,
)

SIZES_PX = [(64, 64), (64, 96), (96, 64), (128, 192)]
HALF = (0.5, 0.5, 0.5, 0.5)
RATE = 16_000


def take_of(background="black", sound=True, flaw="", chance=HALF, **words):
    """One red thing, with what is open chosen in the middle."""
    thing = Thing(**{"shape": "circle", "colour": "red"} | words)
    return Take(Scene(background, (thing,), sound, flaw), (chance,))


def amplitude(wave, hertz, rate=RATE):
    time = np.arange(wave.shape[-1]) / rate
    return 2 * np.abs((wave * np.exp(-2j * np.pi * hertz * time)).mean(-1))


@pytest.mark.parametrize("size", SIZES_PX)
def test_one_thing_stays_in_the_frame(size):
    rng = np.random.default_rng(1)
    width, height = size[1] / min(size), size[0] / min(size)
    for _ in range(300):
        (track,) = Take.draw(draw_scene(rng, pairs=0), rng).tracks(25, *size)
        for place, side in ((track.x, width), (track.y, height)):
            edge = track.radius * 1.05 + MARGIN - 1e-9
            assert (place >= edge).all() and (place <= side - edge).all()


def test_of_two_things_in_a_wide_frame_the_first_stays_on_the_left():
    rng = np.random.default_rng(2)
    for _ in range(300):
        left, right = Take.draw(draw_scene(rng, pairs=1), rng).tracks(25, 64, 96)
        assert left.x.max() <= 0.75 <= right.x.min()
        assert left.x.min() > 0 and right.x.max() < 1.5


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("motion", DIRECTIONS)
def test_a_straight_path_goes_its_way_and_covers_its_share_of_the_room(motion, speed):
    take = take_of(motion=motion, speed=speed)
    (track,) = take.tracks(17, 64, 96)
    room = np.array([1.5, 1.0]) - 2 * reach_of(track.radius[0])
    way = np.array(DIRECTIONS[motion])
    if way.all():
        room[:] = room.min()
    path = np.stack([np.diff(track.x), np.diff(track.y)], -1)
    np.testing.assert_allclose(path.sum(0), way * room * COVERED[speed], atol=1e-9)
    np.testing.assert_allclose(path, np.broadcast_to(path[:1], path.shape), atol=1e-9)


@pytest.mark.parametrize("speed", SPEEDS)
def test_circles_bounces_and_growth_have_the_counts_of_their_speed(speed):
    (circle,) = take_of(motion="circling", speed=speed).tracks(201, 64, 64)
    angles = np.unwrap(np.arctan2(circle.y - np.ptp(circle.y) / 2 - circle.y.min(),
                                  circle.x - np.ptp(circle.x) / 2 - circle.x.min()))  # fmt: skip
    assert angles[-1] - angles[0] == pytest.approx(2 * np.pi * TURNS[speed], abs=0.01)
    (bounce,) = take_of(motion="bouncing", speed=speed).tracks(201, 64, 64)
    u = np.linspace(0, 1, 201)
    assert len(bounce.contacts) == CONTACTS[speed]
    np.testing.assert_allclose(np.interp(bounce.contacts, u, bounce.y), bounce.y.max(), atol=1e-6)
    (growth,) = take_of(motion="growing", speed=speed).tracks(9, 64, 64)
    assert growth.radius[-1] / growth.radius[0] == pytest.approx(GROWTH[speed])
    (still,) = take_of(motion="still").tracks(9, 64, 64)
    assert growth.radius.mean() == pytest.approx(still.radius.mean())


@pytest.mark.parametrize("motion", MOTIONS)
def test_paths_are_the_same_at_any_length(motion):
    take = take_of(motion=motion, speed="fast")
    (short,), (long,) = take.tracks(17, 64, 96), take.tracks(33, 64, 96)
    for name in ("x", "y", "radius"):
        np.testing.assert_allclose(getattr(short, name), getattr(long, name)[::2], atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_its_colour_inside_and_the_background_around(shape, colour):
    clip = take_of("teal", shape=shape, colour=colour).frames(3, 64, 96)
    assert clip.shape == (3, 64, 96, 3) and clip.dtype == np.float32
    np.testing.assert_allclose(clip[:, 32, 48], [COLOURS[colour]] * 3, atol=1e-6)
    np.testing.assert_allclose(clip[:, 0, 0], [BACKGROUNDS["teal"]] * 3, atol=1e-6)


AREAS = {"circle": np.pi, "square": 1.8**2, "triangle": 2.084, "cross": 4 * 1.05 * 0.72 - 0.72**2}


@pytest.mark.parametrize("size", SIZES_PX)
@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_anti_aliased_so_that_areas_are_exact_at_any_size(shape, size):
    take = take_of("black", shape=shape, colour="yellow", size="small")
    (track,) = take.tracks(1, *size)
    cover = (take.frames(1, *size)[0, ..., 0] - 0.03) / (0.95 - 0.03)
    area = cover.sum() / min(size) ** 2 / track.radius[0] ** 2
    assert area == pytest.approx(AREAS[shape], rel=0.02)
    assert ((cover > 0.05) & (cover < 0.95)).sum() > 8


def test_a_part_of_a_clip_is_what_the_clip_has_there():
    take = Take.draw(replace(draw_scene(np.random.default_rng(3), pairs=1), flaw="flickering"),
                     np.random.default_rng(4))  # fmt: skip
    whole = take.frames(25, 64, 96)
    np.testing.assert_array_equal(take.frames(25, 64, 96, slice(6, 15)), whole[6:15])


def test_flaws_dim_flicker_and_blur():
    plain, dim, flicker, blurry = (
        take_of("white", flaw=flaw).frames(9, 64, 64)
        for flaw in ("", "dim", "flickering", "blurry")
    )
    np.testing.assert_allclose(dim, plain * 0.4, atol=1e-6)
    ratio = flicker.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    np.testing.assert_allclose(ratio, [1, 1, 0.55, 0.55, 1, 1, 0.55, 0.55, 1], atol=1e-5)
    assert np.abs(np.diff(blurry, axis=2)).max() < 0.2 < np.abs(np.diff(plain, axis=2)).max()


@pytest.mark.parametrize("colour", COLOURS)
def test_the_pitch_is_that_of_the_colour_and_the_level_that_of_the_size(colour):
    waves = {
        size: take_of(colour=colour, size=size).sound(1.0, RATE, 1.5).sum(0) for size in LOUDNESS
    }
    for hertz in PITCHES_HZ.values():
        is_own = hertz == PITCHES_HZ[colour]
        assert (amplitude(waves["big"], hertz) > 0.1) == is_own
    ratio = amplitude(waves["big"], PITCHES_HZ[colour]) / amplitude(
        waves["small"], PITCHES_HZ[colour]
    )
    assert ratio == pytest.approx(LOUDNESS["big"] / LOUDNESS["small"], rel=0.01)


def test_the_sound_follows_the_thing_from_left_to_right():
    wave = take_of(motion="right", speed="fast").sound(2.0, RATE, 1.5)
    begin, end = amplitude(wave[:, :3200], 300), amplitude(wave[:, -3200:], 300)
    assert begin[0] > 10 * begin[1] and end[1] > 10 * end[0]
    still = take_of(motion="still").sound(2.0, RATE, 1.5)
    assert amplitude(still, 300)[0] == pytest.approx(amplitude(still, 300)[1], rel=0.01)


def test_a_bounce_clicks_at_every_contact():
    wave = take_of(motion="bouncing", speed="slow").sound(2.0, RATE).sum(0)
    spans = {at: wave[round(at * RATE) : round(at * RATE) + 320] for at in (0.5, 1.0, 1.5)}
    levels = {at: amplitude(span, CLICK_HZ) for at, span in spans.items()}
    assert levels[0.5] > 0.05 and levels[1.5] > 0.05 and levels[1.0] < 0.01


def test_silent_scenes_are_silent_and_sound_has_the_length_asked_for():
    assert not take_of(sound=False).sound(1.0, RATE).any()
    wave = take_of().sound(25 / 12, RATE)
    assert wave.shape == (2, round(25 / 12 * RATE)) and np.abs(wave).max() <= 1


def test_one_combination_in_eight_is_held_out_of_training_whatever_its_size_and_speed():
    rng = np.random.default_rng(5)
    scenes = [draw_scene(rng) for _ in range(4000)]
    assert np.mean([scene.held_out for scene in scenes]) == pytest.approx(1 / 8, abs=0.03)
    for scene in scenes[:100]:
        things = tuple(replace(thing, size="small", speed="slow") for thing in scene.things)
        assert replace(scene, things=things, sound=False).held_out == scene.held_out
    assert not any(training_scene(rng).held_out for _ in range(200))
    for count in (1, 2):
        scene = held_out_scene(rng, things=count)
        assert scene.held_out and scene.sound and len(scene.things) == count


def test_scenes_draw_every_word_and_two_things_of_two_colours():
    rng = np.random.default_rng(6)
    scenes = [draw_scene(rng, flawed=0.5) for _ in range(2000)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.flaw for scene in scenes} == {"", "blurry", "dim", "flickering"}
    pairs = [scene.things for scene in scenes if len(scene.things) == 2]
    assert pairs and all(left.colour != right.colour for left, right in pairs)


def test_a_plain_caption_says_everything_in_the_first_words():
    scene = Scene("gray", (Thing("cross", "orange", "small", "up left", "fast"),), sound=False)
    assert caption(scene) == (
        "a small orange cross moves up and left quickly on a gray background, in silence"
    )
    both = replace(scene, things=(scene.things[0], Thing("circle", "red")), sound=True)
    assert caption(both) == (
        "a small orange cross on the left moves up and left quickly and a big red circle on the"
        " right stays still on a gray background"
    )


def test_captions_use_the_vocabulary_only_and_all_of_it():
    rng, words = np.random.default_rng(7), set()
    for _ in range(4000):
        text = random_caption(draw_scene(rng, flawed=0.5), rng)
        words |= set(text.replace(",", " , ").split())
    assert words == set(vocabulary())
