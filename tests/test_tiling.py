"""Tiles of the video VAE: windows, splits, validation, blending."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.latents import VideoScale
from ltx2.models.tiling import (
    Span,
    TileAxis,
    TileCount,
    Tiling,
    auto_tiling,
    balanced_split,
    blend,
    causal,
    decode_frames,
    normalised_windows,
    split_by_count,
    split_by_size,
    tiled_decode,
    tiled_encode,
    trapezoid,
    video_spans,
)
from ltx2.pipelines.components.video import load_video_decoder, load_video_encoder
from ltx2.weights.header import read_header

SCALE = VideoScale(8, 32)
WHOLE = TileAxis()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def decoder_of(golden, backend, name: str = "ltx-2.3-tiny"):
    return load_video_decoder(read_header(golden / "checkpoints" / f"{name}.safetensors"), backend)


def total(spans: list[Span]) -> np.ndarray:
    weights = np.zeros(spans[-1].end)
    for span in spans:
        weights[span.slice] += span.window()
    return weights


def test_ramps_of_equal_overlap_sum_to_one():
    np.testing.assert_allclose(trapezoid(8, 0, 3)[-3:] + trapezoid(8, 3, 0)[:3], 1, atol=1e-6)
    np.testing.assert_allclose(trapezoid(4, 3, 0, from_zero=True), [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(trapezoid(4, 3, 0), [1 / 4, 2 / 4, 3 / 4, 1])


def test_ramps_longer_than_the_window_are_cut():
    np.testing.assert_allclose(trapezoid(2, 5, 5), [2 / 9, 2 / 9], atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "slices", "chunks"),
    [
        (97, [(0, 73), (48, 97)], [48, 49]),
        (121, [(0, 73), (48, 121)], [48, 73]),
        (161, [(0, 73), (48, 129), (104, 161)], [48, 56, 57]),
        (241, [(0, 73), (48, 129), (104, 185), (160, 241)], [48, 56, 56, 81]),
    ],
)
def test_default_time_tiles_are_the_published_ones(frames, slices, chunks):
    grid = ((frames - 1) // 8 + 1, 24, 24)
    spans = [span.in_frames(8) for span in Tiling().split(grid, SCALE)[0]]
    assert [(span.start, span.end) for span in spans] == slices
    stops = [span.start for span in spans[1:]] + [spans[-1].end]
    assert [b - a.start for a, b in zip(spans, stops, strict=True)] == chunks
    np.testing.assert_allclose(total(spans), 1, atol=1e-6)


@pytest.mark.parametrize("length", [4, 7, 24, 31])
@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (4, 1), (6, 3), (10, 5)])
def test_windows_sum_to_one_in_every_unit(length, size, overlap):
    spans = split_by_size(length, size, overlap)
    assert (spans[0].start, spans[-1].end) == (0, length)
    np.testing.assert_allclose(total(spans), 1, atol=1e-6)
    np.testing.assert_allclose(total([span.in_pixels(32) for span in spans]), 1, atol=1e-6)
    np.testing.assert_allclose(total(causal(spans)), 1, atol=1e-6)
    np.testing.assert_allclose(total([s.in_frames(8) for s in causal(spans)]), 1, atol=1e-6)


def test_windows_that_do_not_sum_to_one_are_normalised():
    spans = split_by_size(9, 5, 4)
    assert np.abs(total(spans) - 1).max() > 0.1
    weights = np.zeros(9)
    for span, window in zip(spans, normalised_windows(spans), strict=True):
        weights[span.slice] += window
    np.testing.assert_allclose(weights, 1, atol=1e-6)


def test_short_last_tile_grows_to_the_minimum():
    spans = split_by_size(9, 4, 0, minimum=2)
    assert [(s.start, s.end, s.left, s.right) for s in spans] == [
        (0, 4, 0, 0), (4, 8, 0, 1), (7, 9, 1, 0),
    ]  # fmt: skip
    np.testing.assert_allclose(total(spans), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "count", "overlap", "bounds"),
    [
        (10, 1, 0, [(0, 10)]),
        (4, 2, 1, [(0, 3), (2, 4)]),
        (10, 3, 0, [(0, 4), (4, 7), (7, 10)]),
        (11, 3, 2, [(0, 5), (3, 8), (6, 11)]),
    ],
)
def test_counted_tiles_cover_the_axis_evenly(length, count, overlap, bounds):
    spans = split_by_count(length, count, overlap)
    assert [(span.start, span.end) for span in spans] == bounds
    np.testing.assert_allclose(total(spans), 1, atol=1e-6)


def test_balanced_split_puts_the_smaller_factor_first():
    assert [balanced_split(n) for n in (1, 2, 4, 6, 7, 8)] == [
        (1, 1), (1, 2), (2, 2), (2, 3), (1, 7), (2, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "tiles", "grid"),
    [
        ((512, 768), (512, 768), (1, 1)),
        ((704, 1216), (448, 768), (2, 2)),
        ((1024, 1536), (512, 768), (3, 3)),
        ((1088, 1920), (448, 768), (3, 3)),
    ],
)
def test_automatic_tiles_follow_the_aspect(size, tiles, grid):
    tiling = auto_tiling(*size, SCALE)
    assert (tiling.height.tile_size, tiling.width.tile_size) == tiles
    _, rows, columns = tiling.split((1, size[0] // 32, size[1] // 32), SCALE)
    assert (len(rows), len(columns)) == grid
    assert tiling.frames == TileAxis(80, 24)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling(frames=TileAxis(20, 8)), "frames: tile_size=20 .* use 16 or 24"),
        (Tiling(frames=TileAxis(8, 0)), "frames: tile_size=8 .* use 16 "),
        (Tiling(width=TileAxis(256, 17)), "width: overlap=17 .* use 0 or 32"),
        (Tiling(height=TileAxis(64, 64)), "height: overlap=64 .* use 32"),
        (Tiling(height=TileAxis(0, 32)), "height: overlap=32 without a tile_size"),
        (Tiling(frames=TileCount(0)), "frames: num_tiles=0"),
        (Tiling(width=TileCount(9)), "width: num_tiles=9 is not in 1 to 8"),
        (Tiling(width=TileCount(4, 5)), "width: overlap=5 of 4 tiles is not in 0 to 4"),
    ],
)
def test_wrong_sizes_name_the_axis_and_what_would_do(tiling, message):
    with pytest.raises(UserError, match=message):
        tiling.check(SCALE, (13, 8, 8))


def test_encoding_needs_larger_overlaps():
    tiling = Tiling(TileAxis(24, 8), WHOLE, WHOLE)
    tiling.check(SCALE)
    with pytest.raises(UserError, match=r"frames: overlap=8 .* at least 16"):
        tiling.check_encode(SCALE)


def test_blending_the_tiles_of_a_clip_returns_the_clip(backend):
    clip = random(2, 9, 7, 6, 3)
    axes = [split_by_size(9, 4, 2), split_by_size(7, 4, 1), split_by_size(6, 5, 3)]
    seen = []

    def make(*tile: int):
        seen.append(tile)
        index = tuple(axis[i].slice for axis, i in zip(axes, tile, strict=True))
        return backend.array(clip[:, *index])

    chunks = [backend.numpy(chunk) for chunk in blend(axes, make)]
    assert [chunk.shape[1] for chunk in chunks] == [2, 2, 2, 3]
    np.testing.assert_allclose(np.concatenate(chunks, 1), clip, atol=1e-5)
    assert seen == sorted(seen)


def test_chunks_come_before_later_groups_are_decoded(golden, backend):
    decoder = decoder_of(golden, backend)
    latent = backend.array(random(1, 5, 2, 2, 16))
    chunks = tiled_decode(decoder, latent, Tiling(TileAxis(24, 8), WHOLE, WHOLE))
    first = backend.numpy(next(chunks))
    alone = backend.numpy(decoder(latent[:, :3]))
    np.testing.assert_allclose(first, alone[:, :8], atol=1e-5)


@pytest.mark.parametrize("name", ["tiled_both", "tiled_counts", "tiled_spatial", "tiled_temporal"])
def test_chunk_lengths_are_those_of_the_reference(golden, name):
    settings = json.loads((golden / "cases" / f"video_vae__{name}" / "case.json").read_text())[
        "settings"
    ]
    kind = TileCount if settings["layout"] == "count" else TileAxis
    axes = (kind(**settings["axes"].get(n, {})) for n in ("frames", "height", "width"))
    frames = video_spans(Tiling(*axes).split(tuple(settings["latent_grid"]), SCALE), SCALE)[0]
    stops = [span.start for span in frames[1:]] + [frames[-1].end]
    lengths = [stop - span.start for span, stop in zip(frames, stops, strict=True)]
    assert lengths == settings["chunk_frames"]


def test_untiled_frames_come_in_one_chunk_in_display_range(golden, backend):
    decoder = decoder_of(golden, backend)
    latent = backend.array(3 * random(2, 3, 2, 2, 16))
    (frames,) = decode_frames(decoder, latent, None)
    assert frames.dtype == np.float32
    video = backend.numpy(decoder(latent[:1]))[0]
    assert np.abs(video).max() > 1
    np.testing.assert_allclose(frames, np.clip((video + 1) / 2, 0, 1), atol=1e-5)


def test_tiles_larger_than_the_clip_change_nothing(golden, backend):
    decoder = decoder_of(golden, backend)
    latent = backend.array(random(1, 3, 2, 3, 16))
    (plain,) = decode_frames(decoder, latent, None)
    (tiled,) = decode_frames(decoder, latent, Tiling())
    np.testing.assert_array_equal(tiled, plain)


def test_empty_chunks_are_not_yielded(golden, backend):
    decoder = decoder_of(golden, backend)
    latent = backend.array(random(1, 4, 1, 1, 16))
    tiling = Tiling(TileAxis(16, 8), WHOLE, WHOLE)
    assert [len(c) for c in decode_frames(decoder, latent, tiling)] == [8, 17]


def test_reflecting_decoder_is_never_given_a_single_row(golden, backend):
    decoder = decoder_of(golden, backend, "ltx-2-tiny")
    latent = backend.array(random(1, 1, 3, 2, 16))
    (frames,) = decode_frames(decoder, latent, Tiling(WHOLE, TileAxis(64, 0), WHOLE))
    assert frames.shape == (1, 96, 64, 3)


def test_tiling_is_checked_before_anything_is_decoded(golden, backend):
    with pytest.raises(UserError, match="tile_size=20"):
        tiled_decode(
            decoder_of(golden, backend), backend.array(random(1, 2, 2, 2, 16)), Tiling(TileAxis(20))
        )


def test_host_pixels_encode_like_device_pixels(golden, backend):
    header = read_header(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    encoder = load_video_encoder(header, backend)
    pixels = random(1, 9, 64, 160, 3)
    tiling = Tiling(WHOLE, WHOLE, TileAxis(96, 64))
    on_host = backend.numpy(tiled_encode(encoder, pixels, tiling))
    on_device = backend.numpy(tiled_encode(encoder, backend.array(pixels), tiling))
    np.testing.assert_array_equal(on_host, on_device)
    # The first tile reaches to column 3 of 5; column 0 lies outside the second one.
    alone = backend.numpy(encoder(backend.array(pixels[:, :, :, :96])))
    np.testing.assert_allclose(on_host[:, :, :, 0], alone[:, :, :, 0], atol=1e-5)
