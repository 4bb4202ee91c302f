"""Rotary tables against the specification's check values (transformer.md section 9)."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.nn.rope import RopeOptions, frequencies, host_tables, midpoints, rope_table, rotate
from ltx2.nn.timestep import sinusoid

VIDEO = RopeOptions(4096, 32, (20.0, 2048.0, 2048.0))
AUDIO = RopeOptions(2048, 32, (20.0,))


def test_the_frequency_grid_ends_at_theta():
    grid = frequencies(VIDEO)
    assert grid.dtype == np.float32
    assert len(grid) == 682
    np.testing.assert_allclose(grid[[0, 1, 681]], [np.pi / 2, 1.592185, 15707.963], rtol=1e-6)


def test_video_token_zero_has_the_published_table():
    positions = video_positions((1, 1, 1), 24.0, VideoScale())
    cos, sin = (t[0, 0] for t in host_tables(midpoints(positions), VIDEO))  # (N, D/2)
    near = {"atol": 2e-6}
    np.testing.assert_allclose(cos[0, :3], [1, 1, 0.003272], **near)
    np.testing.assert_allclose(cos[0, 3:6], [0.024541, 0.024541, -0.018071], **near)
    np.testing.assert_allclose(sin[0, :3], [0, 0, -0.999995], **near)
    np.testing.assert_allclose(sin[0, 3:6], [-0.999699, -0.999699, -0.999837], **near)
    np.testing.assert_allclose(cos[31, -3:], [0.257815, 0.923889, 0.923889], **near)
    np.testing.assert_allclose(sin[31, -3:], [0.966194, 0.382660, 0.382660], **near)


def test_audio_token_zero_has_the_published_table():
    cos, sin = (t[0, 0] for t in host_tables(midpoints(audio_positions(1)), AUDIO))
    near = {"atol": 2e-6}
    np.testing.assert_allclose(cos[0, :4], [0.000785, -0.013413, -0.027738, -0.042186], **near)
    np.testing.assert_allclose(sin[0, :4], [-1, -0.999910, -0.999615, -0.999110], **near)
    np.testing.assert_allclose(cos[31, -2:], [-0.607578, -0.000888], **near)
    np.testing.assert_allclose(sin[31, -2:], [-0.794260, 1], **near)


@pytest.mark.parametrize("split", [True, False])
def test_rotation_keeps_lengths_and_depends_on_distance_only(backend, split):
    options = RopeOptions(32, 2, (8.0,), theta=100.0, split=split)
    middle = np.array([[[0.0, 1.0, 4.0, 5.0]]], np.float32)
    vector = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    x = backend.array(np.broadcast_to(vector, (1, 4, 32)).copy())
    out = backend.numpy(rotate(x, rope_table(middle, options, x))).reshape(4, 2, 16)
    lengths = (out**2).sum(-1)
    want = (vector.reshape(2, 16) ** 2).sum(-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(want, (4, 2)), rtol=1e-5)
    products = np.einsum("tnd,snd->tsn", out, out)
    np.testing.assert_allclose(products[0, 1], products[2, 3], rtol=1e-4, atol=1e-4)
    assert np.abs(products[0, 1] - products[0, 2]).max() > 0.1


def test_one_sample_of_tables_serves_a_batch(backend):
    options = RopeOptions(24, 2, (20.0, 64.0, 64.0))
    middle = midpoints(video_positions((2, 1, 2), 24.0, VideoScale()))
    x = backend.array(np.random.default_rng(1).standard_normal((2, 4, 24)).astype(np.float32))
    once = backend.numpy(rotate(x, rope_table(middle, options, x)))
    twice = backend.numpy(rotate(x, rope_table(np.repeat(middle, 2, 0), options, x)))
    np.testing.assert_array_equal(once, twice)


def test_tables_have_the_dtype_of_the_latent(backend):
    x = backend.array(np.zeros((1, 3, 32), np.float32), "bf16")
    table = rope_table(np.zeros((1, 1, 3), np.float32), RopeOptions(32, 2, (8.0,)), x)
    assert table.cos.dtype == x.dtype
    assert rotate(x, table).dtype == x.dtype


def test_timestep_features_have_the_published_values():
    features = sinusoid(np.array([909.375, 0.0], np.float32))
    assert features.dtype == np.float32
    near = {"atol": 1e-4}
    np.testing.assert_allclose(
        features[0, [0, 1, 64, 127]], [-0.115813, -0.408005, -0.945709, 0.995229], **near
    )
    np.testing.assert_allclose(
        features[0, [128, 129, 192, 255]], [-0.993271, -0.912980, 0.325015, 0.097567], **near
    )
    np.testing.assert_array_equal(features[1], [1.0] * 128 + [0.0] * 128)
