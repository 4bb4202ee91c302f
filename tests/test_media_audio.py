"""Reading, writing and resampling sound."""

import math
import wave

import numpy as np
import pytest

from ltx2.errors import MissingFile, UserError
from ltx2.media.audio import pcm16, read_audio, resample, to_stereo, write_wav
from ltx2.parity.registry import Case, tolerance


def wav(path, pcm, width, rate=8000):
    """Write an interleaved (N, C) array of raw samples."""
    with wave.open(str(path), "wb") as file:
        file.setparams((pcm.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes(pcm.tobytes())
    return path


def test_int16_is_divided_by_its_full_scale_and_deinterleaved(tmp_path):
    pcm = np.array([[-32768, 1], [16384, 2], [0, -3]], "<i2")
    waveform, rate = read_audio(wav(tmp_path / "a.wav", pcm, 2))
    assert rate == 8000 and waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, pcm.T / 32768)


def test_int32_is_divided_by_its_full_scale(tmp_path):
    pcm = np.array([[-(2**31)], [2**30]], "<i4")
    waveform, _ = read_audio(wav(tmp_path / "a.wav", pcm, 4))
    np.testing.assert_array_equal(waveform, [[-1, 0.5]])


def test_unsigned_bytes_lose_their_offset(tmp_path):
    waveform, _ = read_audio(wav(tmp_path / "a.wav", np.array([[0], [128], [192]], np.uint8), 1))
    np.testing.assert_array_equal(waveform, [[-1, 0, 0.5]])


def test_float_samples_are_kept(tmp_path):
    samples = np.array([[0.25, -0.5], [1.0, 0.125]], "<f4")
    path = wav(tmp_path / "a.wav", samples, 4)
    header = bytearray(path.read_bytes())
    header[20] = 3  # WAVE_FORMAT_IEEE_FLOAT
    path.write_bytes(header)
    np.testing.assert_array_equal(read_audio(path)[0], samples.T)


@pytest.mark.parametrize("start, duration", [(0.0, 0.5), (0.3, None), (0.7301, 0.2), (0.9, 5.0)])
def test_window_is_exact_to_the_sample(tmp_path, start, duration):
    ramp = np.arange(8000, dtype="<i2")[:, None]
    waveform, rate = read_audio(wav(tmp_path / "a.wav", ramp, 2), start, duration)
    first = round(start * rate)
    stop = 8000 if duration is None else min(8000, first + round(duration * rate))
    np.testing.assert_array_equal(waveform[0] * 32768, np.arange(first, stop))


def test_clip_without_sound_gives_none_and_golden_sound_is_exact(golden):
    assert read_audio(golden / "media" / "reference.avi") is None
    with wave.open(str(golden / "media" / "speech.wav")) as file:
        stored = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    waveform, rate = read_audio(golden / "media" / "speech.wav")
    assert rate == 24000
    np.testing.assert_array_equal(waveform, stored / np.float32(32768))


def test_unusable_files_and_windows_are_explained(tmp_path):
    path = wav(tmp_path / "a.wav", np.zeros((80, 1), "<i2"), 2)
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(UserError, match=r"no sound at 9\.0 s"):
        read_audio(path, 9.0)
    with pytest.raises(UserError, match="duration=0"):
        read_audio(path, 0.0, 0)
    with pytest.raises(MissingFile, match="does not exist"):
        read_audio(tmp_path / "absent.wav")
    with pytest.raises(UserError, match="cannot be read as video or audio"):
        read_audio(tmp_path / "note.txt")


def test_wav_is_clipped_truncated_and_read_back(tmp_path):
    waveform = np.array([[2.0, -2.0, 0.5], [0.0, 0.99999, -0.00004]], np.float32)
    assert pcm16(waveform).tolist() == [[32767, -32767, 16383], [0, 32766, -1]]
    write_wav(tmp_path / "a.wav", waveform, 48000)
    got, rate = read_audio(tmp_path / "a.wav")
    assert rate == 48000
    np.testing.assert_array_equal(got * 32768, pcm16(waveform))


def test_mono_is_doubled_and_surround_refused():
    mono = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(to_stereo(mono), np.ones((2, 4)))
    with pytest.raises(UserError, match="6 channels"):
        to_stereo(np.ones((6, 4), np.float32))


@pytest.mark.parametrize("rate", [24000, 44100])
def test_resampling_equals_the_reference(golden, rate):
    case = Case(golden / "cases" / "audio__mel", backend=None)
    name = f"resampled.{rate}"
    got = resample(case.inputs[f"pcm.{rate}"] / np.float32(32768), rate, 16000)
    rtol, atol = tolerance(case.record, name)
    np.testing.assert_allclose(got, case.outputs[name].reshape(got.shape), rtol, atol)


def resampled_by_the_formula(x, old, new):
    """Audio spec 2, one output sample at a time, in float64; old and new share no divisor."""
    base = min(old, new) * 0.99
    reach = math.ceil(6 * old / base)
    padded = np.pad(x, (reach, reach + old))
    out = []
    for n in range(math.ceil(new * len(x) / old)):
        block, j = divmod(n, new)
        t = np.clip((-j / new + np.arange(-reach, reach + old) / old) * base, -6, 6)
        kernel = np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * base / old
        out.append(padded[block * old : block * old + len(kernel)] @ kernel)
    return np.array(out)


@pytest.mark.parametrize("from_rate, to_rate", [(24000, 16000), (44100, 16000), (16000, 48000)])
def test_resampling_follows_the_formula(from_rate, to_rate):
    noise = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    got = resample(noise, from_rate, to_rate)
    divisor = math.gcd(from_rate, to_rate)
    assert got.dtype == np.float32
    for channel, expected in zip(got, noise, strict=True):
        wanted = resampled_by_the_formula(expected, from_rate // divisor, to_rate // divisor)
        np.testing.assert_allclose(channel, wanted, atol=5e-4)


def test_a_resampled_tone_is_the_tone_at_the_new_rate():
    def tone(rate):
        return np.sin(2 * np.pi * 440 * np.arange(rate) / rate)[None].astype(np.float32)

    got = resample(tone(44100), 44100, 16000)
    np.testing.assert_allclose(got[:, 100:-100], tone(16000)[:, 100:-100], atol=2e-3)


def test_equal_rates_change_nothing():
    noise = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    np.testing.assert_array_equal(resample(noise, 16000, 16000), noise)
