"""Sampling in tiles: what each tile sees, how estimates are blended, what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from ltx2.app.compose import compose
from ltx2.app.effects import check_effects
from ltx2.diffusion.appended import AttentionStrength, KeyframeIndex, append
from ltx2.diffusion.loop import Denoised
from ltx2.diffusion.state import LatentState, initial_state
from ltx2.errors import UserError
from ltx2.experiment.sink import SoundSink
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.tiling import Span
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.cost import transformer_pass
from ltx2.pipelines.denoise_tiles import TiledDenoiser, TileGrid, stage_tiles, token_tiles
from ltx2.pipelines.denoiser import Contexts, Denoiser
from ltx2.pipelines.guidance import GuidancePair, resolve_guidance
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.settings import (
    DenoiseTilesSettings,
    GuidanceSettings,
    StageSettings,
    StreamGuidance,
)
from ltx2.weights.dtype_policy import dtype_policy
from ltx2.weights.header import read_header

SCALE, FPS = VideoScale(8, 32), 24.0
GRID = (4, 5, 6)
STAGE = StageSettings(name="base")
FAST = ("height=64", "width=64", "frames=9", "dtype=fp32")


def grid_of(grid=GRID, **settings) -> TileGrid:
    tiles = stage_tiles(DenoiseTilesSettings(**settings), STAGE, grid)
    assert tiles is not None
    return tiles


def draw(backend, *shape):
    return backend.array(np.random.default_rng(3).normal(size=shape).astype(np.float32))


def clip(backend, grid=GRID, channels=4) -> LatentState:
    tokens = draw(backend, 1, int(np.prod(grid)), channels)
    return initial_state(tokens, video_positions(grid, FPS, SCALE), grid)


def keyframe(backend, frame=8, grid=GRID) -> KeyframeIndex:
    return KeyframeIndex(draw(backend, 1, 1, *grid[1:], 4), frame, FPS, SCALE)


@dataclasses.dataclass
class PerToken:
    """Estimates that depend on nothing but the token and the mask it carries."""

    observe: object = None
    calls: list[LatentState] = dataclasses.field(default_factory=list)

    def __call__(self, video, audio, sigma, step):
        self.calls.append(video)
        x0 = video.latent * 2 + sigma
        return Denoised(x0, None if audio is None else audio.latent * 3, uncond_video=x0 * 5)


@dataclasses.dataclass
class Numbered:
    """The estimate of every token is the number of the call."""

    calls: list[int]
    observe: object = None

    def __call__(self, video, audio, sigma, step):
        number = len(self.calls)
        self.calls.append(number)
        return Denoised(video.latent * 0 + number, None if audio is None else audio.latent + number)


@pytest.mark.parametrize(
    "settings", [{"height": 2}, {"frames": 3, "frames_overlap": 0}, {"height": 2, "width": 3}]
)
def test_estimates_that_see_one_token_do_not_change_by_tiling(backend, settings):
    state = keyframe(backend).apply(clip(backend))
    inner = PerToken()
    made = TiledDenoiser(inner, state, grid_of(**settings))(state, None, 0.5, 0)
    whole = inner(state, None, 0.5, 0)
    for name in ("video", "uncond_video"):
        tiled, plain = (backend.numpy(getattr(result, name)) for result in (made, whole))
        np.testing.assert_allclose(tiled, plain, atol=2e-5)
    assert made.audio is None and made.uncond_audio is None


def test_generated_tokens_are_weighted_with_the_trapezoids_of_all_axes(backend):
    state = clip(backend, (1, 4, 5))
    tiles = grid_of((1, 4, 5), height=2, height_overlap=0, width=2, width_overlap=1)
    made = TiledDenoiser(Numbered([]), state, tiles)(state, None, 1.0, 0)
    values = backend.numpy(made.video)[0, :, 0].reshape(4, 5)
    # Columns 0-2 and 2-4: the shared one is half of each. Rows 0-1 and 2-3 share none.
    np.testing.assert_allclose(values[0], [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(values[3], [2, 2, 2.5, 3, 3], atol=1e-6)


def test_sound_runs_with_every_tile_and_is_averaged(backend):
    state = clip(backend)
    sound = initial_state(draw(backend, 1, 7, 3), audio_positions(7))
    made = TiledDenoiser(Numbered([]), state, grid_of(height=2, width=2))(state, sound, 1.0, 0)
    expected = backend.numpy(sound.latent) + (0 + 1 + 2 + 3) / 4
    np.testing.assert_allclose(backend.numpy(made.audio), expected, atol=1e-6)


def test_positions_of_every_tile_begin_at_zero_and_keep_their_lengths(backend):
    state = clip(backend)
    tiles = token_tiles(state, grid_of(frames=2, frames_overlap=1, width=2, width_overlap=2))
    assert len(tiles) == 4
    for tile in tiles:
        own = tile.part.positions
        np.testing.assert_array_equal(own[0, ..., 0].min(axis=1), 0)
        lengths = np.diff(state.positions[:, :, tile.tokens])
        np.testing.assert_allclose(np.diff(own), lengths, atol=1e-6)
    # Latent frames 0-2 and 2-3: the first of a clip covers one frame, the later ones eight.
    np.testing.assert_allclose(tiles[0].part.positions[0, 0, 0], [0, 1 / FPS], atol=1e-6)
    np.testing.assert_allclose(tiles[2].part.positions[0, 0, 0], [0, 8 / FPS], atol=1e-6)
    assert [tile.part.target_tokens for tile in tiles] == [60, 60, 40, 40]


def test_first_frame_marks_and_attention_masks_are_sliced(backend):
    state = AttentionStrength(keyframe(backend), 0.5).apply(clip(backend))
    tiles = token_tiles(state, grid_of(frames=2, frames_overlap=0, height=2))
    marked = [tile.part.keyframes_mask[:, : tile.part.target_tokens].any() for tile in tiles]
    assert marked == [True, True, False, False]
    for tile in tiles:
        both = np.ix_(tile.tokens, tile.tokens)
        np.testing.assert_array_equal(tile.part.attention_mask[0], state.attention_mask[0][both])


def test_a_keyframe_belongs_to_the_tiles_it_overlaps(backend):
    state = keyframe(backend, frame=20).apply(clip(backend))
    first, second, third, fourth = token_tiles(
        state, grid_of(frames=2, frames_overlap=0, width=2, width_overlap=0)
    )
    # Frame 20 is in the last of four latent frames: only the later tiles, each its own half.
    for tile in (first, second):
        assert len(tile.tokens) == tile.part.target_tokens
    for tile, columns in ((third, (0, 1, 2)), (fourth, (3, 4, 5))):
        kept = tile.tokens[tile.part.target_tokens :] - state.target_tokens
        assert sorted({int(token) % 6 for token in kept}) == list(columns)
        assert len(kept) == 5 * 3


def test_tokens_before_the_clip_are_seen_by_every_tile_and_averaged(backend):
    positions = np.full((1, 3, 2, 2), 0, np.float32)
    positions[:, 0] = [[-2, -1], [0, 0.01]]
    positions[:, 1:, :, 1] = 32
    state = append(clip(backend), draw(backend, 1, 2, 4), positions, strength=1.0)
    made = TiledDenoiser(Numbered([]), state, grid_of(height=2, width=2))(state, None, 1.0, 0)
    values = backend.numpy(made.video)[0, state.target_tokens :, 0]
    np.testing.assert_allclose(values, [(0 + 1 + 2 + 3) / 4, 0], atol=1e-6)


def test_a_token_that_no_tile_sees_stays_as_it_was_given(backend):
    positions = np.zeros((1, 3, 1, 2), np.float32) + np.float32([1000, 1001])
    state = append(clip(backend), draw(backend, 1, 1, 4), positions, strength=1.0)
    made = TiledDenoiser(Numbered([]), state, grid_of(height=2))(state, None, 1.0, 0)
    np.testing.assert_allclose(
        backend.numpy(made.video)[0, -1], backend.numpy(state.clean)[0, -1], atol=1e-6
    )


class Tiny:
    """The tiny 2.0 transformer under full guidance, with states and prompts."""

    def __init__(self, backend, golden, **guidance) -> None:
        header = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
        transformer = load_transformer(header, backend, "fp32")
        config = transformer.config
        stream = StreamGuidance(
            cfg=3.0, stg=1.0, stg_blocks=[1], rescale=0.7, modality=2.0, skip_step=0
        )
        stream = dataclasses.replace(stream, **guidance)
        preset = GuidanceSettings("multimodal", stream, stream)
        settings = resolve_guidance(GuidanceSettings(), preset)
        raw = [draw(backend, 1, 6, config.stream(s).caption) for s in ("video", "audio")]
        prompts = [
            Contexts(*transformer.project_context(*raw)),
            Contexts(*transformer.project_context(*(0.5 * x for x in raw))),
        ]
        pair = GuidancePair.of(settings, STAGE, layers=2)
        self.denoiser = Denoiser(transformer, lambda _: prompts, pair)
        self.video = clip(backend, (3, 2, 4), config.video.in_channels)
        sound = draw(backend, 1, 5, config.audio.in_channels)
        self.audio = initial_state(sound, audio_positions(5))


def test_one_tile_is_the_untiled_run_bit_for_bit(backend, golden):
    tiny = Tiny(backend, golden)
    whole = TileGrid(tuple((Span(0, length),) for length in (3, 2, 4)))
    tiled = TiledDenoiser(tiny.denoiser, tiny.video, whole)(tiny.video, tiny.audio, 0.8, 0)
    plain = tiny.denoiser(tiny.video, tiny.audio, 0.8, 0)
    for name in ("video", "audio", "uncond_video", "uncond_audio"):
        a, b = (backend.numpy(getattr(result, name)) for result in (tiled, plain))
        np.testing.assert_array_equal(a, b)


def test_a_tile_is_a_complete_guided_run_of_its_own(backend, golden):
    tiny = Tiny(backend, golden)
    tiles = grid_of((3, 2, 4), width=2, width_overlap=0)
    tiled = TiledDenoiser(tiny.denoiser, tiny.video, tiles)(tiny.video, tiny.audio, 0.8, 0)
    parts = [
        tiny.denoiser(clip_of(backend, tiny.video, columns), tiny.audio, 0.8, 0)
        for columns in (slice(0, 2), slice(2, 4))
    ]
    halves = [backend.numpy(part.video).reshape(3, 2, 2, -1) for part in parts]
    joined = np.concatenate(halves, axis=2).reshape(1, 24, -1)
    np.testing.assert_allclose(backend.numpy(tiled.video), joined, atol=1e-5)
    sound = sum(backend.numpy(part.audio) for part in parts) / 2
    np.testing.assert_allclose(backend.numpy(tiled.audio), sound, atol=1e-5)


def clip_of(backend, state, columns) -> LatentState:
    part = backend.numpy(state.latent).reshape(3, 2, 4, -1)[:, :, columns]
    tokens = backend.array(np.ascontiguousarray(part).reshape(1, 12, -1))
    return initial_state(tokens, video_positions((3, 2, 2), FPS, SCALE), (3, 2, 2))


def test_skipped_steps_reuse_the_estimates_of_the_same_tile(backend, golden):
    tiny = Tiny(backend, golden, skip_step=1)
    # Tiles of different sizes: another tile's estimate would not even fit.
    tiles = grid_of((3, 2, 3), width=2, width_overlap=0)
    video = clip(backend, (3, 2, 3), 16)
    denoiser = TiledDenoiser(tiny.denoiser, video, tiles)
    first = denoiser(video, tiny.audio, 0.8, 0)
    skipped = denoiser(video, tiny.audio, 0.6, 1)
    np.testing.assert_array_equal(backend.numpy(first.video), backend.numpy(skipped.video))
    computed = denoiser(video, tiny.audio, 0.6, 2)
    assert np.abs(backend.numpy(computed.video) - backend.numpy(first.video)).max() > 1e-4


def test_an_observer_sees_every_tile(backend, golden):
    tiny, seen = Tiny(backend, golden), []
    denoiser = TiledDenoiser(tiny.denoiser, tiny.video, grid_of((3, 2, 4), width=2))
    denoiser.observe = lambda stream, name, x: seen.append((stream, name))
    denoiser(tiny.video, tiny.audio, 0.8, 0)
    assert ("video", "tile0.cond") in seen and ("audio", "tile1.uncond") in seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, r"denoise_tiles\.height=0 is not positive; use 1 \(whole\) or 2"),
        ({"height": 6}, r"height=6 is more than the 5 latent rows of stage 'base'; use 1 to 5"),
        (
            {"width": 2, "width_overlap": 5},
            r"width_overlap=5 does not suit 2 tiles of the 6 latent columns.*; use 0 to 4",
        ),
        ({"frames": 2, "frames_overlap": -1}, r"frames_overlap=-1 .*; use 0 to 2"),
        ({"height": 2, "above_tokens": -1}, r"above_tokens=-1 is negative; 0 tiles every stage"),
    ],
)
def test_counts_and_overlaps_without_room_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        stage_tiles(DenoiseTilesSettings(**settings), STAGE, GRID)


def test_the_usual_overlap_is_five_latents_or_what_there_is_room_for():
    axes = grid_of((20, 4, 20), frames=2, height=2, width=2, width_overlap=3).axes
    assert [axis[0].end - axis[1].start for axis in axes] == [5, 2, 3]


def test_small_stages_and_stages_without_pictures_stay_whole():
    settings = DenoiseTilesSettings(height=2, above_tokens=120)
    assert stage_tiles(settings, STAGE, GRID) is None
    larger = stage_tiles(settings, STAGE, (5, 5, 6))
    assert larger is not None and larger.count == 2
    sound = dataclasses.replace(STAGE, streams=["audio"])
    assert stage_tiles(DenoiseTilesSettings(height=2), sound, GRID) is None
    assert stage_tiles(DenoiseTilesSettings(), STAGE, GRID) is None


def test_the_plan_counts_a_call_per_tile_and_pass():
    plain = make_plan(compose([*FAST, "pipeline=two_stage"]))
    tiles = ["denoise_tiles.height=2", "denoise_tiles.above_tokens=12"]
    tiled = make_plan(compose([*FAST, "pipeline=two_stage", *tiles]))
    assert tiled.stage("base").transformer_calls == plain.stage("base").transformer_calls
    assert tiled.stage("refine").transformer_calls == 2 * plain.stage("refine").transformer_calls
    assert transformer_pass(tiled, tiled.stage("refine")) < transformer_pass(
        plain, plain.stage("refine")
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["pipeline=two_stage", "denoise_tiles.above_tokens=12"], []),
        (["pipeline=two_stage"], ["stage 'base' starts from pure noise", "sound .* stage 'base'"]),
        (["pipeline=two_stage", "denoise_tiles.above_tokens=999"], ["no stage has more than 999"]),
        (
            ["pipeline=distilled", "denoise_tiles.above_tokens=12"],
            ["sound comes from stage 'refine'"],
        ),
    ],
)
def test_what_tiling_costs_in_coherence_is_said_beforehand(overrides, expected):
    notices = make_plan(compose([*FAST, "denoise_tiles.height=2", *overrides])).notices
    assert len(notices) == len(expected)
    for notice, pattern in zip(notices, expected, strict=True):
        assert re.search(pattern, notice)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["denoise_tiles=spatial"], "denoise_tiles.frames_overlap"),
        ([], "denoise_tiles.above_tokens"),
        (["pipeline=text_to_audio"], "denoise_tiles.height"),
    ],
)
def test_keys_without_effect_are_refused(overrides, key):
    with pytest.raises(UserError, match=f"{key} has no effect"):
        check_effects(compose(overrides), [key])


class Frames(SoundSink):
    """Keeps the frames."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []

    def audio(self, waveform, rate) -> None:
        pass

    def frames(self, chunk) -> None:
        self.chunks.append(chunk)


def frames_of(backend, *overrides):
    plan = make_plan(compose([*FAST, *overrides]))
    sink = Frames()
    Runner(plan, backend, dtype_policy(backend, "fp32", {})).run(sink)
    return np.concatenate(sink.chunks)


def distance(a, b) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def test_a_refined_clip_is_nearly_the_same_in_tiles(backend):
    steps = ("pipeline=two_stage", "scheduler.steps=4", "schedules.stage2=[0.421875,0.0]")
    size = ("height=128", "width=128", "denoise_tiles.above_tokens=48")
    plain, other = (frames_of(backend, *steps, *size[:2], seed) for seed in ("seed=10", "seed=11"))
    tiled = frames_of(backend, *steps, *size, "denoise_tiles=spatial", "seed=10")
    assert 0 < distance(tiled, plain) < 0.2 * distance(other, plain)


def test_every_window_of_a_long_video_is_tiled(backend):
    frames = frames_of(
        backend, "pipeline=long_video", "scheduler.steps=1", "denoise_tiles.width=2",
        "window.frames=9", "window.overlap=5", "frames=13",
    )  # fmt: skip
    assert frames.shape == (13, 64, 64, 3)
    assert np.isfinite(frames).all()
