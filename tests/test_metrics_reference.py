"""Measures against a reference: known distances, and what cannot be compared is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from metric_clips import FPS, RATE, clip_of, grey, measure, noise, sine
from safetensors.numpy import save_file
from skimage.metrics import structural_similarity

from ltx2.errors import MissingFile, UserError
from ltx2.experiment.metrics.against import Against
from ltx2.experiment.metrics.distances import LatentDistance, SpectrogramDistance
from ltx2.experiment.metrics.picture import LUMA
from ltx2.experiment.metrics.similarity import MsSsim, Psnr, Ssim
from ltx2.media.audio import write_wav
from ltx2.media.pixels import rgb24
from ltx2.media.video import VideoWriter

FRAMES = noise(5, size=(192, 208), smooth=2)


def written(path, frames=FRAMES, sound=None, fps=FPS):
    with VideoWriter(path, fps, audio_rate=None if sound is None else RATE) as writer:
        writer.write(frames)
        if sound is not None:
            writer.add_audio(sound)
    return str(path)


def run_folder(path, frames=FRAMES, latents=None, name="video.mp4", sound=None):
    path.mkdir()
    written(path / name, frames, sound)
    size = {"height": frames.shape[1], "width": frames.shape[2]}
    record = {"size": size, "frames": len(frames), "fps": FPS}
    (path / "run.json").write_text(json.dumps(record))
    if latents is not None:
        (path / "latents").mkdir()
        save_file(latents, path / "latents" / "base.steps.safetensors")
    return str(path)


def test_the_same_frames_are_as_like_as_can_be(tmp_path):
    path = written(tmp_path / "frames")
    assert measure(Psnr(path), FRAMES)["psnr"] == 100
    assert measure(Ssim(path), FRAMES)["ssim"] == pytest.approx(1)
    assert measure(MsSsim(path), FRAMES)["ms_ssim"] == pytest.approx(1)


def test_psnr_is_that_of_the_mean_squared_error_over_all_frames(tmp_path):
    path = written(tmp_path / "frames", grey(*[100.5 / 255] * 4))
    ours = grey(*[level / 255 for level in (100.5, 100.5, 110.5, 120.5)])
    error = (0 + 0 + 10**2 + 20**2) / 4
    expected = 10 * np.log10(255**2 / error)
    assert measure(Psnr(path), ours)["psnr"] == pytest.approx(expected)


def test_ssim_agrees_with_scikit_image(tmp_path):
    path = written(tmp_path / "frames")
    ours = np.clip(FRAMES + 0.1 * (noise(5, size=(192, 208), seed=1) - 0.5), 0, 1)
    expected = [
        structural_similarity(
            a @ LUMA,
            b @ LUMA,
            data_range=255,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for a, b in zip(rgb24(ours), rgb24(FRAMES), strict=True)
    ]
    assert 0.3 < np.mean(expected) < 0.95
    assert measure(Ssim(path), ours)["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_ms_ssim_multiplies_the_parts_of_five_scales(tmp_path):
    path = written(tmp_path / "frames", FRAMES[:1])
    ours = np.clip(FRAMES[:1] + 0.05 * (noise(size=(192, 208), seed=1) - 0.5), 0, 1)
    a, b = (rgb24(frames)[0].astype(np.float64) @ LUMA for frames in (ours, FRAMES))
    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (p.reshape(len(p) // 2, 2, -1, 2).mean(axis=(1, 3)) for p in (a, b))
        # Without the means: those are removed by the luminance term, which only the last scale has.
        options = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 255}
        whole = structural_similarity(a, b, full=True, **options)[1]
        means = [_local_mean(p) for p in (a, b)]
        c1 = (0.01 * 255) ** 2
        luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
        part = whole if scale == 4 else whole / luminance
        expected *= part[5:-5, 5:-5].mean() ** weight
    assert measure(MsSsim(path), ours)["ms_ssim"] == pytest.approx(expected, abs=1e-4)


def _local_mean(picture):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(picture, 1.5, truncate=3.5)


def test_noise_lowers_every_likeness_and_a_shift_of_light_hardly_ssim(tmp_path):
    path = written(tmp_path / "frames")
    noisy = np.clip(FRAMES + 0.2 * (noise(5, size=(192, 208), seed=1) - 0.5), 0, 1)
    lighter = np.clip(FRAMES + 0.05, 0, 1)
    assert measure(Ssim(path), noisy)["ssim"] < 0.9 * measure(Ssim(path), lighter)["ssim"]
    assert measure(MsSsim(path), noisy)["ms_ssim"] < measure(MsSsim(path), lighter)["ms_ssim"]


def test_an_mp4_of_the_clip_is_close_to_it(tmp_path):
    smooth = noise(5, size=(192, 208), smooth=12)
    path = written(tmp_path / "clip.mp4", smooth)
    assert 30 < measure(Psnr(path), smooth)["psnr"] < 100


@pytest.mark.parametrize(("gain", "distance"), [(1.0, 0.0), (0.5, 6.02), (0.25, 12.04)])
def test_half_the_amplitude_is_six_decibels_away(tmp_path, gain, distance):
    sound = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    write_wav(tmp_path / "a.wav", sound, RATE)
    found = measure(SpectrogramDistance(str(tmp_path / "a.wav")), sound=gain * sound)
    assert found["spectrogram_distance"] == pytest.approx(distance, abs=0.1)


def test_a_reference_of_another_sample_rate_is_resampled(tmp_path):
    write_wav(tmp_path / "a.wav", sine(1000, rate=48_000), 48_000)
    found = measure(SpectrogramDistance(str(tmp_path / "a.wav")), sound=sine(1000))
    far = measure(SpectrogramDistance(str(tmp_path / "a.wav")), sound=sine(5000))
    assert found["spectrogram_distance"] < 0.5 < far["spectrogram_distance"]


def test_latent_distance_is_relative_and_has_a_curve_per_stage(tmp_path):
    rng = np.random.default_rng(0)
    theirs = {
        f"{kind}.{index:03}": rng.normal(size=(1, 6, 4)).astype(np.float32)
        for kind in ("video", "audio")
        for index in range(3)
    }
    path = run_folder(tmp_path / "run", latents=theirs)
    steps = [
        ("base", n, theirs[f"video.{n:03}"] * (1 + n / 10), theirs[f"audio.{n:03}"])
        for n in range(3)
    ]
    found = measure(LatentDistance(path), FRAMES, steps=[*steps, ("refine", 0, steps[0][2], None)])
    assert found["latent_distance"] == pytest.approx(0.2, rel=1e-5)
    assert found["latent_distance_audio"] == 0
    curve = found["latent_distance_base"]
    assert (curve.x, curve.x_unit) == ([0, 1, 2], "step")
    assert curve.y == pytest.approx([0, 0.1, 0.2], abs=1e-6)
    assert "latent_distance_refine" not in found


def test_steps_that_the_reference_lacks_are_unknown(tmp_path):
    path = run_folder(tmp_path / "run", latents={"video.000": np.ones((1, 2), np.float32)})
    steps = [("base", n, np.ones((1, 2), np.float32), None) for n in range(2)]
    found = measure(LatentDistance(path), FRAMES, steps=steps)
    assert found["latent_distance_base"].y[0] == 0
    assert np.isnan(found["latent_distance"])


def test_one_reference_gives_all_that_it_has_at_once(tmp_path):
    sound = sine(440, seconds=len(FRAMES) / FPS)
    latents = {"video.000": np.ones((1, 2), np.float32)}
    path = run_folder(tmp_path / "run", latents=latents, sound=sound)
    found = measure(Against(path), FRAMES, sound, steps=[("base", 0, latents["video.000"], None)])
    assert {"psnr", "ssim", "ms_ssim", "spectrogram_distance", "latent_distance"} <= set(found)
    assert found["psnr"] == pytest.approx(measure(Psnr(path), FRAMES)["psnr"])
    assert found["latent_distance"] == 0
    small = grey(0.1, 0.2, size=(32, 48))
    path = run_folder(tmp_path / "small", small)
    assert set(measure(Against(path), small)) == {"psnr", "ssim"}


@pytest.mark.parametrize("metric", [Psnr, Ssim, MsSsim, SpectrogramDistance, LatentDistance])
def test_a_reference_must_be_named_and_exist(metric, tmp_path):
    key = f"metrics.{metric.names[0]}.reference"
    with pytest.raises(UserError, match=f"^{key} is not set; name a run folder or a media file"):
        metric().start(clip_of(FRAMES))
    with pytest.raises(MissingFile, match=f"^{key}={tmp_path}/none does not exist"):
        metric(str(tmp_path / "none")).start(clip_of(FRAMES))


def test_frames_of_another_size_number_or_rate_are_refused(tmp_path):
    for name, frames, fps, told in (
        ("size", FRAMES[:, :96], FPS, "208x96, 5 frames at 24 fps"),
        ("count", FRAMES[:4], FPS, "208x192, 4 frames at 24 fps"),
        ("rate", FRAMES, 25, "208x192, 5 frames at 25 fps"),
    ):
        path = written(tmp_path / f"{name}.mp4", frames, fps=fps)
        with pytest.raises(UserError) as caught:
            Psnr(path).start(clip_of(FRAMES))
        assert str(caught.value) == (
            f"metrics.psnr.reference={path} is {told}, this run makes 208x192, 5 frames at 24 fps;"
            " only equal clips are compared"
        )


def test_sound_of_another_length_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", sine(440, seconds=2), RATE)
    with pytest.raises(UserError, match=r"2\.00 s of sound, this run makes 1\.00 s"):
        SpectrogramDistance(str(tmp_path / "a.wav")).start(clip_of())


def test_what_a_reference_does_not_have_is_refused(tmp_path):
    silent, empty = written(tmp_path / "silent.mp4"), tmp_path / "empty"
    empty.mkdir()
    write_wav(tmp_path / "a.wav", sine(440), RATE)
    wav, run = str(tmp_path / "a.wav"), run_folder(tmp_path / "run")
    for metric, message in (
        (SpectrogramDistance(silent), "silent.mp4 has no sound; name another run or file"),
        (Psnr(wav), "a.wav has no pictures; name another run or file"),
        (Psnr(str(empty)), "empty is neither a run folder nor a folder of PNG frames"),
        (LatentDistance(run), "name a run folder that was made with save_steps=true"),
        (Against(), "metrics.reference.path is not set"),
    ):
        with pytest.raises(UserError) as caught:
            metric.start(clip_of(FRAMES))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="this run makes sound only"):
        Psnr(silent).start(clip_of())


def test_a_file_that_is_no_media_or_a_damaged_record_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    folder = run_folder(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    for path in (str(tmp_path / "a.mp4"), folder):
        with pytest.raises(UserError) as caught:
            Psnr(path).start(clip_of(FRAMES))
        assert "\n" not in str(caught.value)


def test_pictures_too_small_for_five_scales_are_refused(tmp_path):
    path = written(tmp_path / "a.mp4", FRAMES[:, :128])
    with pytest.raises(UserError, match="needs frames of at least 176 pixels a side"):
        MsSsim(path).start(clip_of(FRAMES[:, :128]))
