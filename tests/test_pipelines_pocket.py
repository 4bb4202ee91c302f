"""What each pipeline promises, seen on the pocket model: kept parts are kept, new parts are new."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_backend
from pocket_oracle import BACKGROUNDS, COLOURS, read_clip

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.audio import read_audio
from ltx2.media.video import read_video

EXAMPLES = Path(__file__).parents[1] / "ltx2" / "pocket" / "examples"
# 28 dB: the VAE's own round trip of these clips.
KEPT = 0.04


def run(tmp_path, *overrides):
    """(frames (F, H, W, 3) in [0, 1], waveform (2, N), rate) of a run on torch, from its files."""
    settings = compose([*overrides, "dtype=fp32"])
    path = generate(settings, lambda: make_backend("torch"), tmp_path)
    waveform, rate = read_audio(path)
    frames = None if path.suffix == ".wav" else read_video(path)[0] / np.float32(255)
    return frames, waveform, rate


def difference(a, b):
    """Root mean square difference per frame."""
    return np.sqrt(np.square(a - b).mean(axis=(1, 2, 3)))


@pytest.fixture(scope="module")
def clip():
    return read_video(EXAMPLES / "clip.mp4")[0] / np.float32(255)


def test_retake_changes_the_window_and_keeps_the_rest(tmp_path, clip):
    frames, _, _ = run(tmp_path, "experiment=[pocket_retake]", "scheduler.steps=6")
    changed = difference(frames, clip)
    # The last latent is held, but the decoder of its last frame looks far back.
    assert changed[:4].max() < 2 * KEPT and changed[-3:-1].max() < 2 * KEPT
    assert changed[7:11].min() > 3 * KEPT
    middle = frames[8].reshape(-1, 3)
    strongest = middle[np.abs(middle - BACKGROUNDS["black"]).sum(1).argsort()[-40:]]
    near = min(COLOURS, key=lambda c: np.square(np.median(strongest, 0) - COLOURS[c]).sum())
    assert near in ("blue", "purple")


def test_inpainting_generates_only_where_the_mask_is_white(tmp_path, clip):
    frames, _, _ = run(tmp_path, "experiment=[pocket_inpaint]", "scheduler.steps=6")
    # The column of latents beside the border shares its pixels through the decoder.
    assert difference(frames[:, :, :40], clip[:, :, :40]).max() < 2 * KEPT
    right = frames[:, :20, 100:].mean(axis=(0, 1, 2))
    assert np.abs(right - BACKGROUNDS["white"]).max() < 0.15


@pytest.mark.parametrize("side", ["after", "before"])
def test_an_extension_holds_the_clip_and_adds_its_own_frames(tmp_path, clip, side):
    options = ["experiment=[pocket_extend]", f"input.side={side}", "scheduler.steps=2"]
    frames, waveform, rate = run(tmp_path, *options)
    assert len(frames) == 17 + 17 - 5
    own = frames[:17] if side == "after" else frames[-17:]
    assert difference(own, clip).max() < 0.02  # pixels pass untouched, but for the codec
    sound, own_rate = read_audio(EXAMPLES / "clip.mp4")
    assert own_rate == rate
    length = 20000
    start = 0 if side == "after" else round(12 / 12 * rate)
    given = sound[:, :length] if side == "after" else sound[:, 2000:length]
    offset = start if side == "after" else start + 2000
    heard = waveform[:, offset : offset + given.shape[1]]
    assert np.corrcoef(heard[0], given[0])[0, 1] > 0.9


def test_video_to_audio_keeps_the_pictures_and_sounds_as_asked(tmp_path, clip):
    frames, waveform, rate = run(tmp_path, "experiment=[pocket_video_to_audio]")
    assert difference(frames, clip).max() < 0.02
    assert read_clip((frames * 255).astype(np.uint8), waveform, rate).tone == "low"


def test_audio_to_video_keeps_the_sound_and_follows_it(tmp_path):
    frames, waveform, rate = run(tmp_path, "experiment=[pocket_audio_to_video]")
    sound, own_rate = read_audio(EXAMPLES / "sound.wav")
    assert rate == own_rate
    shared = min(sound.shape[1], waveform.shape[1]) - 2048
    assert np.corrcoef(waveform[0, :shared], sound[0, :shared])[0, 1] > 0.95
    seen = read_clip((frames * 255).astype(np.uint8), waveform, rate)
    assert (seen.colour, seen.direction, seen.pan) == ("yellow", "right", "right")


def test_the_record_of_a_preset_names_no_folder_of_this_machine(tmp_path):
    run(tmp_path, "experiment=[pocket_retake]", "scheduler.steps=1")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["input"]["video"] == "package:pocket/examples/clip.mp4"
    assert str(EXAMPLES) not in (tmp_path / "config.yaml").read_text()


def test_text_to_audio_writes_sound_alone(tmp_path):
    frames, waveform, rate = run(tmp_path, "experiment=[pocket_text_to_audio]", "scheduler.steps=2")
    assert frames is None and waveform.shape[0] == 2
    assert abs(waveform.shape[1] / rate - 17 / 12) < 0.06
    assert not (tmp_path / "video.mp4").exists() and not (tmp_path / "frames.png").exists()


def test_windows_of_a_long_clip_share_their_overlap(tmp_path):
    options = ["pipeline=long_video", "frames=33", "scheduler.steps=2", "window.overlap=5"]
    frames, waveform, rate = run(tmp_path, *options)
    record = json.loads((tmp_path / "run.json").read_text())
    assert len(frames) == 33 and abs(waveform.shape[1] / rate - 33 / 12) < 0.1
    # Latents 9, windows of 5 that carry 2: [0, 5) [3, 8) [4, 9), two stages of 2 x 2 and 3 calls.
    assert record["transformer_calls"] == 3 * (2 * 2 + 3)
    assert difference(frames[1:], frames[:-1]).max() < 0.25


def test_restyling_keeps_the_motion_and_takes_the_new_colour(tmp_path):
    frames, waveform, rate = run(tmp_path, "experiment=[pocket_restyle]")
    seen = read_clip((frames * 255).astype(np.uint8), waveform, rate)
    assert (seen.colour, seen.direction, seen.background) == ("red", "right", "black")


def test_a_start_that_would_be_drowned_in_noise_is_refused(tmp_path):
    clip = f"input.video={EXAMPLES / 'clip.mp4'}"
    with pytest.raises(UserError, match="first sigma is 1: nothing of it would be left"):
        run(tmp_path, "pipeline=restyle", clip)


def test_a_first_picture_is_shown_first(tmp_path):
    frames, _, _ = run(tmp_path, "experiment=[pocket_image]", "scheduler.steps=4")
    first = read_video(EXAMPLES / "clip.mp4", 1)[0] / np.float32(255)
    assert difference(frames[:1], first).max() < 2 * KEPT


def test_keyframes_pull_both_ends_towards_their_pictures(tmp_path, clip):
    frames, _, _ = run(tmp_path, "experiment=[pocket_keyframes]")
    ends = difference(frames[[0, -1]], clip[[0, -1]])
    swapped = difference(frames[[0, -1]], clip[[-1, 0]])
    assert (ends < 0.6 * swapped).all()


@pytest.mark.parametrize("name", ["pocket_ic_lora", "pocket_dub", "pocket_two_stage_hq"])
def test_the_other_presets_make_clips_of_their_prompt(tmp_path, name):
    frames, waveform, rate = run(tmp_path, f"experiment=[{name}]")
    seen = read_clip((frames * 255).astype(np.uint8), waveform, rate)
    assert (seen.colour, seen.background, seen.direction) == ("yellow", "black", "right")
