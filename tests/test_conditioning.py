"""Conditioning items give the reference's states; impossible items are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ltx2.parity.conditioning  # noqa: F401  (registers the runners)
from ltx2.diffusion.appended import (
    AttentionStrength,
    AudioReference,
    KeyframeIndex,
    KeyframeSlots,
    Reference,
)
from ltx2.diffusion.conditioning import LatentIndex, MaskedLatent, TimeRegion, condition
from ltx2.diffusion.frames import spaced_keyframes, subsampled, token_strengths
from ltx2.diffusion.state import cleared, freeze, initial_state, noised
from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.parity.registry import RUNNERS, Case, tolerance

CASES = Path(__file__).parent / "golden" / "cases"
GRID, SCALE, FPS = (3, 2, 3), VideoScale(), 24.0


def video_state(backend, dtype: str = "fp32"):
    latent = backend.array(np.zeros((1, 18, 4), np.float32), dtype)
    return initial_state(latent, video_positions(GRID, FPS, SCALE), GRID)


def clip(backend, frames: int = 1, height: int = 2, width: int = 3, value: float = 1.0):
    return backend.array(np.full((1, frames, height, width, 4), value, np.float32))


@pytest.mark.parametrize("name", sorted(p.name for p in CASES.glob("conditioning__*")))
def test_states_equal_the_recording(name, backend):
    case = Case(CASES / name, backend)
    got = RUNNERS[case.component](case)
    assert set(got) == set(case.outputs)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


def test_noise_leaves_appended_and_written_tokens_clean_and_clearing_cuts_them(backend):
    items = [LatentIndex(clip(backend)), KeyframeIndex(clip(backend, value=2.0), 8, FPS, SCALE)]
    state = condition(video_state(backend), items)
    state = noised(state, np.full((1, 24, 4), 9.0, np.float32), 1.0)
    latent = backend.numpy(state.latent)
    np.testing.assert_array_equal(latent[:, :6], 1)
    np.testing.assert_array_equal(latent[:, 6:18], 9)
    np.testing.assert_array_equal(latent[:, 18:], 2)
    assert cleared(state).shape == (1, 18, 4)


def test_a_strength_of_zero_leaves_tokens_to_be_generated(backend):
    state = LatentIndex(clip(backend), strength=0.0).apply(video_state(backend))
    np.testing.assert_array_equal(state.mask, 1)


def test_items_keep_the_state_dtype(backend):
    start = video_state(backend, "bf16")
    items = [
        LatentIndex(clip(backend)),
        MaskedLatent(clip(backend, 3), np.ones((1, *GRID), np.float32), 0.5),
        Reference(clip(backend, 3), FPS, SCALE),
        KeyframeSlots((3, 9), 17, FPS, SCALE, initial=clip(backend, 2)),
    ]
    state = condition(start, items)
    assert state.latent.dtype == state.clean.dtype == start.latent.dtype
    assert state.latent.shape == state.clean.shape == (1, 48, 4)


def test_an_item_does_not_change_the_state_it_was_applied_to(backend):
    before = video_state(backend)
    condition(before, [LatentIndex(clip(backend)), TimeRegion(0.1, 0.2)])
    np.testing.assert_array_equal(before.mask, 1)
    np.testing.assert_array_equal(backend.numpy(before.clean), 0)


def test_the_attention_mask_separates_groups_and_grades_the_target(backend):
    items = [
        KeyframeIndex(clip(backend), 4, FPS, SCALE),
        AttentionStrength(KeyframeIndex(clip(backend), 8, FPS, SCALE), 0.25),
        KeyframeIndex(clip(backend), 16, FPS, SCALE),
    ]
    mask = condition(video_state(backend), items).attention_mask[0]
    first, graded, last = slice(18, 24), slice(24, 30), slice(30, 36)
    np.testing.assert_array_equal(mask[graded, :18], 0.25)
    np.testing.assert_array_equal(mask[:18, graded], 0.25)
    np.testing.assert_array_equal(mask[graded, graded], 1)
    np.testing.assert_array_equal(mask[:18, first], 1)
    np.testing.assert_array_equal(mask[last, :18], 1)
    for a, b in ((first, graded), (graded, last), (first, last)):
        assert not mask[a, b].any() and not mask[b, a].any()


def test_freezing_keeps_every_token(backend):
    state = freeze(TimeRegion(0.0, 0.1).apply(video_state(backend)))
    assert state.frozen and not state.mask.any()


def test_positions_cover_the_batch(backend):
    latent = backend.array(np.zeros((2, 5, 8), np.float32))
    state = initial_state(latent, audio_positions(5))
    tokens = backend.array(np.ones((2, 3, 8), np.float32))
    state = AudioReference(tokens, audio_positions(3) - 1).apply(state)
    assert state.positions.shape == (2, 1, 8, 2) and state.keyframes_mask is None
    np.testing.assert_allclose(state.positions[1, 0, 5:, 0], [-1, -0.99, -0.95], rtol=1e-6)


@pytest.mark.parametrize(
    "item,complaint",
    [
        (lambda b: LatentIndex(clip(b, width=2)), r"2 x 2 .*the video 2 x 3"),
        (lambda b: LatentIndex(clip(b, 2), index=2), "use 0 to 1"),
        (lambda b: KeyframeIndex(clip(b, height=4), 8, FPS, SCALE), "4 x 3"),
        (lambda b: MaskedLatent(clip(b), np.ones((1, 1, 2, 3))), r"\(1, 2, 3\)"),
        (lambda b: TimeRegion(0.5, 0.5), "is empty"),
        (lambda b: KeyframeSlots((9, 3), 17, FPS, SCALE), r"\[9, 3\] must strictly increase"),
        (lambda b: KeyframeSlots((3, 17), 17, FPS, SCALE), "within 0 to 16"),
        (lambda b: KeyframeSlots((), 17, FPS, SCALE), "strictly increase"),
        (lambda b: AttentionStrength(KeyframeIndex(clip(b), 8, FPS, SCALE), 1.5), "within 0 and 1"),
        (lambda b: AttentionStrength(LatentIndex(clip(b)), 0.5), "appends tokens"),
    ],
)
def test_impossible_items_are_refused(item, complaint, backend):
    with pytest.raises(UserError, match=complaint):
        item(backend).apply(video_state(backend))


def test_keyframe_slots_may_be_given_once(backend):
    slots = KeyframeSlots((3,), 17, FPS, SCALE)
    with pytest.raises(UserError, match="once per run"):
        condition(video_state(backend), [slots, slots])


def test_keyframes_divide_the_clip_evenly():
    assert spaced_keyframes(1, 17) == [8]
    assert spaced_keyframes(3, 121) == [30, 60, 90]


def test_subsampling_keeps_the_first_frame_and_every_nth_after_it():
    frames = np.arange(17)
    assert subsampled(frames, 4, axis=0).tolist() == [0, 1, 5, 9, 13]
    assert subsampled(frames, 1, axis=0).tolist() == frames.tolist()


def test_a_pixel_mask_is_averaged_over_each_latent_token():
    mask = np.zeros((1, 9, 4, 6), np.float32)
    mask[:, 0] = 1
    mask[:, 1:3, :2] = 1
    np.testing.assert_allclose(token_strengths(mask, (2, 2, 1)), [[1, 1, 0.25, 0]])
    with pytest.raises(UserError, match=r"9 mask frames"):
        token_strengths(mask, (4, 2, 1))
