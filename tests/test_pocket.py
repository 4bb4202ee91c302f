"""The demo's prompts come true: the default pipeline on the pocket model, read from the mp4."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import BACKENDS, make_backend
from pocket_oracle import read_clip

from ltx2.app.compose import compose
from ltx2.experiment.run import generate
from ltx2.media.audio import read_audio
from ltx2.media.video import read_video

# colour, shape, direction, background, sound: held-out looking mixes in all three caption forms.
PROMPTS = [
    ("a red circle moves right on a teal background with a high tone", "red teal right high"),
    ("a blue square moves left on a white background with a low tone", "blue white left low"),
    ("a yellow triangle moving up, black background, middle tone", "yellow black up middle"),
    ("a green circle moving down, gray background, high tone", "green gray down high"),
    ("purple square going right over white with low tone", "purple white right low"),
    ("orange triangle going left over black with no tone", "orange black left no"),
]


# MLX on a CPU takes 15 seconds for each.
CASES = [
    pytest.param(name, *case, marks=[pytest.mark.slow] if name == "mlx" and index else [])
    for name in BACKENDS
    for index, case in enumerate(PROMPTS)
]


@pytest.mark.parametrize(("name", "prompt", "expected"), CASES)
def test_clip_shows_and_sounds_like_its_prompt(name, prompt, expected, tmp_path):
    settings = compose([f"prompt='{prompt}'"])
    clip = generate(settings, lambda: make_backend(name), tmp_path)
    frames, fps = read_video(clip)
    waveform, rate = read_audio(clip)
    seen = read_clip(frames, waveform, rate)
    assert f"{seen.colour} {seen.background} {seen.direction} {seen.tone}" == expected
    if seen.tone != "no" and seen.direction in ("left", "right"):
        assert seen.pan == seen.direction
    assert frames.shape == (17, 128, 128, 3)
    # AAC codes whole frames of 1024 samples: the last one reaches past the exact length.
    assert 0 <= waveform.shape[1] / rate - 17 / fps < 1024 / rate


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
def test_both_backends_give_the_same_video(tmp_path):
    settings = compose(["dtype=fp32"])
    clips = [
        generate(settings, lambda n=name: make_backend(n), tmp_path / name) for name in BACKENDS
    ]
    first, second = (read_video(clip)[0].astype(np.float64) for clip in clips)
    # 48 dB: a quarter of an 8-bit level of error on top of the codec's own choices.
    assert 10 * np.log10(255**2 / np.mean(np.square(first - second))) > 48
