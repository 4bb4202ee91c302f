"""Latent grids, positions and token order."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2.models.latents import (
    AudioTiming,
    VideoScale,
    audio_latent_length,
    audio_positions,
    first_frame_mask,
    pack_audio,
    pack_video,
    patchify_pixels,
    unpack_audio,
    unpack_video,
    unpatchify_pixels,
    video_latent_shape,
    video_positions,
)

SCALE = VideoScale()


def test_the_first_latent_frame_covers_one_frame_the_others_eight():
    assert video_latent_shape(121, 512, 768, SCALE) == (16, 16, 24)
    assert video_latent_shape(1, 32, 64, SCALE) == (1, 1, 2)
    assert video_latent_shape(9, 64, 64, VideoScale(4, 16)) == (3, 4, 4)


@pytest.mark.parametrize(
    ("frames", "fps", "length"),
    [(121, 24, 126), (121, 25, 121), (9, 24, 9), (17, 24, 18), (49, 30, 41), (257, 50, 128)],
)
def test_audio_length_follows_the_clip(frames, fps, length):
    assert audio_latent_length(frames, fps) == length


def test_audio_length_rounds_ties_to_even():
    assert audio_latent_length(1, 10) == 2
    assert audio_latent_length(3, 50) == 2
    assert audio_latent_length(7, 50) == 4


def test_time_positions_are_seconds_shifted_by_the_causal_first_frame():
    positions = video_positions((3, 1, 1), 24.0, SCALE)
    assert positions.dtype == np.float32
    want = np.array([[0, 1], [1, 9], [9, 17]], np.float32) / np.float32(24)
    np.testing.assert_array_equal(positions[0, 0], want)
    plain = video_positions((3, 1, 1), 24.0, SCALE, causal=False)
    np.testing.assert_array_equal(plain[0, 0] * 24, [[0, 8], [8, 16], [16, 24]])


def test_width_varies_fastest_in_tokens_and_positions():
    positions = video_positions((2, 2, 3), 25.0, SCALE)
    assert positions.shape == (1, 3, 12, 2)
    assert positions[0, 1, :6, 0].tolist() == [0, 0, 0, 32, 32, 32]
    assert positions[0, 2, :4].tolist() == [[0, 32], [32, 64], [64, 96], [0, 32]]
    assert positions[0, 0, 6:].tolist() == [[np.float32(1) / np.float32(25), np.float32(0.36)]] * 6


def test_audio_positions_are_causal_and_follow_the_spectrogram():
    want = np.array([[0, 0.01], [0.01, 0.05], [0.05, 0.09]], np.float32)
    np.testing.assert_allclose(audio_positions(3)[0, 0], want, rtol=1e-6)
    timing = AudioTiming(sample_rate=8000, hop=80, downsample=2)
    assert timing.per_second == 50
    np.testing.assert_allclose(
        audio_positions(3, timing)[0, 0], [[0, 0.01], [0.01, 0.03], [0.03, 0.05]], rtol=1e-6
    )


def test_the_marker_covers_the_first_latent_frame():
    assert first_frame_mask((3, 2, 1)).tolist() == [[1, 1, 0, 0, 0, 0]]


def test_packing_orders_tokens_by_time_row_column(backend):
    latent = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(1, 2, 2, 3, 4)
    tokens = pack_video(backend.array(latent))
    np.testing.assert_array_equal(backend.numpy(tokens)[0, 7], latent[0, 1, 0, 1])
    np.testing.assert_array_equal(backend.numpy(unpack_video(tokens, (2, 2, 3))), latent)


def test_latent_patches_return_to_their_places(backend):
    latent = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(1, 2, 4, 6, 3)
    tokens = pack_video(backend.array(latent), patch=2)
    assert tuple(tokens.shape) == (1, 12, 12)
    assert backend.numpy(tokens)[0, 1].tolist() == [
        latent[0, 0, y, x, c] for c in range(3) for y in (0, 1) for x in (2, 3)
    ]
    np.testing.assert_array_equal(backend.numpy(unpack_video(tokens, (2, 4, 6), 2)), latent)


def test_audio_tokens_hold_the_channel_slowest(backend):
    latent = np.arange(3 * 4 * 2, dtype=np.float32).reshape(1, 3, 4, 2)  # (B, T, M, C)
    tokens = pack_audio(backend.array(latent))
    assert backend.numpy(tokens)[0, 1].tolist() == [
        latent[0, 1, m, c] for c in range(2) for m in range(4)
    ]
    np.testing.assert_array_equal(backend.numpy(unpack_audio(tokens, 2)), latent)


def test_pixel_patches_put_the_column_before_the_row(backend):
    pixels = np.arange(8 * 4 * 3, dtype=np.float32).reshape(1, 1, 8, 4, 3)
    patches = patchify_pixels(backend.array(pixels))
    assert tuple(patches.shape) == (1, 1, 2, 1, 48)
    c, column, row = 2, 1, 3
    got = backend.numpy(patches)[0, 0, 1, 0, (c * 4 + column) * 4 + row]
    assert got == pixels[0, 0, 4 + row, column, c]
    np.testing.assert_array_equal(backend.numpy(unpatchify_pixels(patches)), pixels)
