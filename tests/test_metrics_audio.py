"""Measures of the sound and of its place beside the pictures, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from metric_clips import FPS, RATE, grey, measure, sine

from ltx2.errors import UserError
from ltx2.experiment.metrics.audio import (
    DurationError,
    Loudness,
    PitchTrack,
    SilenceShare,
    SpectralCentroid,
    TruePeak,
)
from ltx2.experiment.metrics.sync import OnsetOffset

AUDIO = [DurationError, Loudness, PitchTrack, SilenceShare, SpectralCentroid, TruePeak]
SILENT = np.zeros((2, RATE), np.float32)


@pytest.mark.parametrize("rate", [24_000, 48_000])
@pytest.mark.parametrize("level", [-23, -33])
def test_a_stereo_sine_of_minus_23_dbfs_has_minus_23_lufs(level, rate):
    # EBU Tech 3341, cases 1 and 2: 1 kHz, 20 s, tolerance 0.1 LU.
    sound = sine(1000, seconds=20, amplitude=10 ** (level / 20), rate=rate)
    assert measure(Loudness(), sound=sound, rate=rate)["loudness"] == pytest.approx(level, abs=0.1)


def test_true_peak_lies_between_the_samples():
    # EBU Tech 3341, case 16: a quarter of the rate at 45 degrees; samples reach 0.707 of the peak.
    sound = sine(RATE / 4, amplitude=0.5, phase=np.pi / 4)
    assert np.abs(sound).max() == pytest.approx(0.5 / 2**0.5, rel=1e-3)
    assert measure(TruePeak(), sound=sound)["true_peak"] == pytest.approx(-6.02, abs=0.3)


def test_silence_share_is_the_silent_part():
    sound = np.concatenate([sine(440, 1.5), np.zeros((2, RATE // 2), np.float32)], axis=1)
    assert measure(SilenceShare(), sound=sound)["silence_share"] == pytest.approx(0.25)
    faint = sine(440, amplitude=10 ** (-62 / 20))
    assert measure(SilenceShare(), sound=faint)["silence_share"] == 1
    assert measure(SilenceShare(threshold_db=-70), sound=faint)["silence_share"] == 0


def test_the_centroid_of_a_sine_is_its_frequency():
    found = measure(SpectralCentroid(), sound=sine(1000))["spectral_centroid"]
    assert found == pytest.approx(1000, abs=3)


def test_the_centroid_of_two_equal_sines_lies_between_them():
    found = measure(SpectralCentroid(), sound=sine(1000, amplitude=0.2) + sine(3000, amplitude=0.2))
    assert found["spectral_centroid"] == pytest.approx(2000, rel=0.02)


@pytest.mark.parametrize("hertz", [80, 220.5, 440, 1000, 1700])
def test_the_pitch_of_a_sine_is_its_frequency(hertz):
    found = measure(PitchTrack(), sound=sine(hertz))
    assert found["pitch"] == pytest.approx(hertz, rel=2e-3)
    assert found["voiced_share"] == 1
    assert np.ptp(found["pitch_track"].y) < 0.01 * hertz


def test_the_pitch_of_a_harmonic_sound_is_its_fundamental():
    sound = sum(sine(150 * n, amplitude=0.3 / n) for n in (1, 2, 3, 4))
    assert measure(PitchTrack(), sound=sound)["pitch"] == pytest.approx(150, rel=2e-3)


def test_the_pitch_track_follows_a_change_at_its_time():
    sound = np.concatenate([sine(200), sine(600)], axis=1)
    track = measure(PitchTrack(), sound=sound)["pitch_track"]
    times, values = np.array(track.x), np.array(track.y)
    assert np.nanmedian(values[times < 0.95]) == pytest.approx(200, rel=0.01)
    assert np.nanmedian(values[times > 1.05]) == pytest.approx(600, rel=0.01)
    assert (track.x_unit, track.y_unit) == ("s", "Hz")


def test_noise_has_no_pitch():
    sound = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    assert measure(PitchTrack(), sound=sound)["voiced_share"] < 0.05


def test_silence_has_no_loudness_peak_centroid_or_pitch():
    for metric in (Loudness(), TruePeak(), SpectralCentroid(), PitchTrack()):
        found = measure(metric, sound=SILENT)
        assert np.isnan(found[metric.names[0]])
    assert measure(PitchTrack(), sound=SILENT)["voiced_share"] == 0


def test_duration_error_is_the_difference_to_the_pictures():
    # clip_of has 24 frames: one second
    assert measure(DurationError(), sound=sine(440, 1.25))["duration_error"] == pytest.approx(0.25)
    assert measure(DurationError(), sound=sine(440, 0.5))["duration_error"] == pytest.approx(0.5)
    assert measure(DurationError(), sound=sine(440))["duration_error"] == 0


@pytest.mark.parametrize("metric", AUDIO)
@pytest.mark.parametrize("samples", [1, 100, 3000])
def test_short_sound_is_measured_or_unknown_but_never_an_error(metric, samples):
    found = measure(metric(), sound=sine(440)[:, :samples])
    assert set(metric.names) <= set(found)


@pytest.mark.parametrize("metric", [*AUDIO, OnsetOffset])
def test_without_sound_every_number_is_unknown(metric):
    found = measure(metric(), grey(0.1, 0.2))
    assert all(np.isnan(found[name]) for name in metric.names)


def flash(frame, count=48):
    levels = np.full(count, 0.2)
    levels[frame] = 0.9
    return grey(*levels)


def click(seconds, total=2.0):
    sound = np.random.default_rng(0).normal(0, 1e-4, (2, round(total * RATE))).astype(np.float32)
    begin = round(seconds * RATE)
    sound[:, begin : begin + 200] += 0.8
    return sound


@pytest.mark.parametrize("offset", [0.0, 0.1, -0.1, 0.3])
def test_a_click_after_a_flash_is_offset_by_the_time_between(offset):
    found = measure(OnsetOffset(), flash(24), click(24 / FPS + offset))
    assert found["av_offset"] == pytest.approx(offset, abs=0.0051)
    assert found["av_sync"] > 0.95


def test_two_clicks_in_the_rhythm_of_two_flashes_are_in_sync():
    frames = np.maximum(flash(12), flash(30))
    found = measure(OnsetOffset(), frames, click(12 / FPS) + click(30 / FPS))
    assert found["av_offset"] == pytest.approx(0, abs=0.0051)
    assert found["av_sync"] > 0.95


def test_without_an_onset_there_is_no_offset():
    for frames, sound in ((flash(24), SILENT), (grey(*[0.5] * 48), click(1))):
        assert np.isnan(measure(OnsetOffset(), frames, sound)["av_offset"])


def test_what_moves_and_sounds_from_the_beginning_has_no_onset():
    frames = grey(*np.linspace(0.1, 0.9, 48))
    assert np.isnan(measure(OnsetOffset(), frames, sine(440, 2.0))["av_offset"])


def test_onsets_further_apart_than_asked_do_not_match():
    found = measure(OnsetOffset(most_seconds=0.2), flash(10), click(1.5))
    assert found["av_sync"] < 0.05


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match="lowest_hz=500 is not below highest_hz=100"):
        PitchTrack(lowest_hz=500, highest_hz=100)
    with pytest.raises(UserError, match=r"metrics\.av_offset\.most_seconds=0 is not a"):
        OnsetOffset(most_seconds=0)
    with pytest.raises(UserError, match=r"metrics\.silence_share\.window_seconds=-1 is"):
        SilenceShare(window_seconds=-1)
