"""Measures of the pictures, on clips of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from metric_clips import FPS, grey, measure, noise

from ltx2.errors import UserError
from ltx2.experiment.metrics.motion import Motion
from ltx2.experiment.metrics.picture import Picture
from ltx2.experiment.metrics.video import (
    Brightness,
    Clipped,
    Colourfulness,
    Contrast,
    Flicker,
    LoopSimilarity,
    SeamEnergy,
    Sharpness,
    StaticShare,
)

VIDEO = [Brightness, Clipped, Colourfulness, Contrast, Flicker, LoopSimilarity, SeamEnergy]
VIDEO += [Sharpness, StaticShare, Motion]
HALVES = np.repeat(np.array([0.2, 0.8], np.float32), 24)[None, None, :, None] * np.ones(
    (1, 32, 1, 3), np.float32
)


def test_even_grey_has_its_own_brightness_and_no_contrast_colour_or_edges():
    frames = grey(0.5, 0.5, 0.5)
    assert measure(Brightness(), frames)["brightness"] == pytest.approx(0.5, abs=1e-6)
    for metric in (Contrast(), Colourfulness(), Sharpness(), Clipped(), Flicker()):
        (value,) = measure(metric, frames).values()
        assert value == pytest.approx(0, abs=1e-5)


def test_brightness_weighs_colours_as_bt709_does_and_keeps_its_curve():
    frames = np.zeros((3, 8, 8, 3), np.float32)
    for channel in range(3):
        frames[channel, ..., channel] = 1
    found = measure(Brightness(), frames)
    assert found["brightness_track"].y == pytest.approx([0.2126, 0.7152, 0.0722], abs=1e-6)
    assert found["brightness_track"].x == pytest.approx([0, 1 / FPS, 2 / FPS])


def test_contrast_is_the_standard_deviation_of_luma():
    assert measure(Contrast(), HALVES)["contrast"] == pytest.approx(0.3, abs=1e-6)


def test_colourfulness_is_that_of_the_papers_formula():
    frames = np.zeros((1, 16, 16, 3), np.float32)
    frames[:, :8, :, 0] = 1  # half red, half black: rg 255 or 0, yb 127.5 or 0
    spread = np.hypot(127.5, 63.75)
    offset = np.hypot(127.5, 63.75)
    found = measure(Colourfulness(), frames)["colourfulness"]
    assert found == pytest.approx(spread + 0.3 * offset, rel=1e-5)


def test_sharpness_of_a_step_is_the_variance_of_its_laplacian():
    laplacian = np.zeros(46)
    laplacian[22:24] = 0.6 * 255, -0.6 * 255
    assert measure(Sharpness(), HALVES)["sharpness"] == pytest.approx(laplacian.var(), rel=1e-4)


def test_blur_lowers_sharpness():
    sharp, soft = (measure(Sharpness(), noise(smooth=n))["sharpness"] for n in (0, 2))
    assert soft < sharp / 4


def test_alternating_light_flickers_and_a_fade_does_not():
    alternating = grey(0.4, 0.6, 0.4, 0.6, 0.4)
    assert measure(Flicker(), alternating)["flicker"] == pytest.approx(0.2, abs=1e-6)
    fade = grey(*np.linspace(0.1, 0.9, 9))
    assert measure(Flicker(), fade)["flicker"] == pytest.approx(0, abs=1e-6)


def test_static_share_counts_repeated_frames():
    frames = grey(0.1, 0.1, 0.5, 0.5005, 0.7)
    assert measure(StaticShare(), frames)["static_share"] == 0.5
    assert measure(StaticShare(threshold=0.0), frames)["static_share"] == 0.25


def test_loop_similarity_is_one_for_a_closed_loop_and_near_zero_for_unrelated_ends():
    first, middle, last = noise(3)
    closed = measure(LoopSimilarity(), np.stack([first, middle, first]))
    assert closed["loop_similarity"] == pytest.approx(1)
    opened = measure(LoopSimilarity(), np.stack([first, middle, last]))
    assert abs(opened["loop_similarity"]) < 0.05
    inverse = measure(LoopSimilarity(), np.stack([first, 1 - first]))
    assert inverse["loop_similarity"] < -0.9


def test_clipped_is_the_share_of_pixels_with_a_channel_at_either_end():
    frames = grey(0.5, size=(32, 32))
    frames[:, :8, :, 0] = 1
    frames[:, 8:12, :, 2] = 0
    assert measure(Clipped(), frames)["clipped"] == pytest.approx(0.375)


@pytest.mark.parametrize(("axis", "seams"), [(1, ([], [48], [])), (2, ([], [], [48]))])
def test_a_step_at_a_tile_seam_shows_in_seam_energy(axis, seams):
    smooth = noise(4, smooth=8)
    clean = measure(SeamEnergy(), smooth, seams=lambda: seams)["seam_energy"]
    assert 0.7 < clean < 1.4
    other_tile = [slice(None)] * 4
    other_tile[axis] = slice(48, None)
    smooth[tuple(other_tile)] += 0.2
    broken = measure(SeamEnergy(), smooth, seams=lambda: seams)["seam_energy"]
    assert broken > 5
    places = tuple([line + 20 for line in lines] for lines in seams)
    beside = measure(SeamEnergy(), smooth, seams=lambda: places)["seam_energy"]
    assert beside < 1.5


def test_a_jump_between_frames_of_two_tiles_shows_in_seam_energy():
    steady = grey(*np.linspace(0.2, 0.4, 20))
    seams = [10], [], []
    assert measure(SeamEnergy(), steady, seams=lambda: seams)["seam_energy"] == pytest.approx(
        1, 1e-4
    )
    steady[10:] += 0.1
    step, floor = 0.2 / 19, 0.5 / 255
    found = measure(SeamEnergy(), steady, seams=lambda: seams)["seam_energy"]
    assert found == pytest.approx((step + 0.1 + floor) / (step + floor), rel=1e-3)


def test_motion_of_a_picture_is_its_speed_in_pixels_per_frame():
    first = noise(size=(128, 192), smooth=3)[0]
    frames = np.stack([np.roll(first, 2 * index, axis=1) for index in range(6)])
    found = measure(Motion(), frames)
    assert found["motion"] == pytest.approx(2, abs=0.1)
    assert found["motion_track"].x == pytest.approx(np.arange(1, 6) / FPS)
    assert measure(Motion(long_side=96), frames)["motion"] == pytest.approx(2, abs=0.25)


def test_a_moving_square_on_an_even_ground_moves_at_its_speed():
    square = noise(size=(64, 64), smooth=3)[0]
    frames = grey(*[0.5] * 6, size=(128, 192))
    for index in range(6):
        frames[index, 32:96, 40 + 2 * index : 104 + 2 * index] = square
    found = measure(Motion(), frames)
    assert found["motion"] == pytest.approx(2, abs=0.15)
    assert found["motion_peak"] == pytest.approx(2, abs=0.1)


def test_what_stands_still_beside_a_moving_half_lowers_motion_and_not_its_peak():
    picture = noise(size=(128, 192), smooth=3)[0]
    frames = np.repeat(picture[None], 6, axis=0)
    for index in range(6):
        frames[index, :, 96:] = np.roll(picture[:, 96:], 2 * index, axis=0)
    found = measure(Motion(), frames)
    assert found["motion"] == pytest.approx(1, abs=0.15)
    assert found["motion_peak"] == pytest.approx(2, abs=0.1)


def test_a_still_picture_does_not_move():
    frames = np.repeat(noise(smooth=3), 3, axis=0)
    assert measure(Motion(), frames)["motion"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("metric", VIDEO)
def test_without_pictures_every_number_is_unknown(metric):
    found = measure(metric())
    assert all(np.isnan(found[name]) for name in metric.names)


@pytest.mark.parametrize("metric", VIDEO)
def test_a_single_frame_is_measured_or_unknown_but_never_an_error(metric):
    found = measure(metric(), noise(size=(96, 130)))
    assert set(metric.names) <= set(found)


def test_a_picture_counts_the_change_from_the_frame_before():
    before, now = grey(0.2, 0.5)
    assert Picture(now, Picture(before).luma).change == pytest.approx(0.3)
    assert Picture(now).change is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Motion(long_side=0), "metrics.motion.long_side=0 is not a whole number from 1"),
        (lambda: Clipped(levels="x"), "metrics.clipped.levels=x is not a number"),
        (lambda: StaticShare(threshold=None), "metrics.static_share.threshold=None is not a n"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
