"""Dense frame rate: the layout of canvas, keyframes and tiles, and whole runs on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import GOLDEN, make_backend
from safetensors.numpy import save_file

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.video import read_metadata
from ltx2.pipelines.dense import Canvas, RoundTile, position_rate
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.rounds import Round
from ltx2.pipelines.runner import Runner
from ltx2.weights.dtype_policy import COMPONENTS

CHECKPOINTS = GOLDEN / "checkpoints"
TINY = CHECKPOINTS / "ltx-2.5-tiny"
FILES = {
    "checkpoint": TINY / "diffusion_models/ltx-2.5-tiny-transformer.safetensors",
    "text_encoder": TINY / "text_encoders/gemma4-tiny-with-proj.safetensors",
    "video_vae": TINY / "vae/ltx-2.5-tiny-video-vae-conv.safetensors",
    "audio_vae": TINY / "vae/ltx-2.5-tiny-audio-vae.safetensors",
    "spatial_upscaler": CHECKPOINTS / "spatial-upscaler-x2-tiny.safetensors",
    "temporal_upscaler": CHECKPOINTS / "temporal-upscaler-x2-tiny.safetensors",
}
FP32 = dict.fromkeys(COMPONENTS, "fp32")


def model(*options, **replaced):
    """Settings of a DFR run of the tiny model at 64 x 64 pixels."""
    named = [f"model.files.{role}.file={path}" for role, path in {**FILES, **replaced}.items()]
    fixed = ("pipeline=dfr", "model.kind=any", "height=64", "width=64", "dtype=fp32")
    return compose(["model=path", *named, *fixed, *options])


class Memory:
    """A sink that keeps the clip."""

    def __init__(self):
        self.chunks, self.waveform, self.rate = [], None, 0

    def audio(self, waveform, rate):
        self.waveform, self.rate = waveform, rate

    def frames(self, chunk):
        self.chunks.append(chunk)


def run(backend, *options):
    """(frames, sink, runner) of a run."""
    plan = make_plan(model("checks=off", *options))
    runner, sink = Runner(plan, backend, FP32), Memory()
    runner.run(sink)
    return np.concatenate(sink.chunks), sink, runner


@pytest.mark.parametrize(
    ("asked", "segment", "frames", "keyframes"),
    [
        (121, 24, 121, (24, 48, 72, 96, 120)),
        (97, 32, 97, (32, 64, 96)),  # both fit: the longer segments
        (89, 32, 97, (32, 64, 96)),  # both need 8 frames more
        (65, 32, 65, (32, 64)),
        (9, 24, 25, (24,)),
    ],
)
def test_a_clip_is_padded_to_the_segments_that_need_least(asked, segment, frames, keyframes):
    plan = make_plan(model(f"frames={asked}"))
    assert plan.canvas.segment == segment
    assert (plan.frames, plan.keyframe_slots) == (frames, keyframes)
    assert plan.asked_frames == asked


def test_later_tiles_begin_a_segment_early_and_the_first_ones_are_larger():
    canvas = Canvas(121, 24, 2)
    assert canvas.tiles(1) == (RoundTile(0, 0, 144), RoundTile(96, 144, 240))
    sizes = [(tile.stop - tile.owned) // 48 for tile in canvas.tiles(2)]
    assert sizes == [3, 3, 2, 2]
    assert Canvas(25, 24, 1).tiles(1) == (RoundTile(0, 0, 48),)  # no tile without a segment


def test_rounds_double_frames_and_rate_and_cap_the_rate_of_positions():
    plan = make_plan(model("frames=41", "fps=24", "dfr.rounds=2"))
    grids = {stage.name: stage.grid for stage in plan.stages}
    assert grids["refine"] == (7, 2, 2) and grids["round1"] == (13, 2, 2)
    assert grids["round2"] == plan.decoded_grid == (25, 2, 2)
    assert (plan.output_frames, plan.output_fps) == (161, 96)
    assert [position_rate(24, number) for number in (1, 2)] == [48, 60]


def test_rounds_that_are_not_run_pass_on_what_they_would_start_from():
    def stages(rounds):
        plan = make_plan(model("frames=25", f"dfr.rounds={rounds}"))
        return [s.name for s in plan.stages], plan.stages[-1].settings.video_from

    assert stages(0) == (["base", "upscale", "refine", "decode"], "refine")
    assert stages(1)[1] == "round1" and stages(2)[1] == "round2"
    assert "temporal_upscaler" not in make_plan(model("frames=25", "dfr.rounds=0")).files


class Zeros:
    """Noise that is none."""

    def normal(self, shape, dtype="float32"):
        return np.zeros(shape, dtype)


def round_of(backend, images=()):
    """The first round of 73 frames (three segments), started from numbered latents."""
    plan = make_plan(model("frames=73", "fps=24"))
    stage = plan.stage("round1")
    numbers = np.arange(stage.grid[0], dtype=np.float32)[None, :, None, None, None]
    video = np.broadcast_to(numbers, (1, *stage.grid, 128))
    seams = np.broadcast_to(100 * (1 + numbers[:, :3]), (1, 3, *stage.grid[1:], 128))
    start = Latents(backend.array(video), None, backend.array(seams))
    return Round(plan, stage, StateBuilder(plan, backend, Zeros()), start, list(images))


def test_a_tile_is_held_by_its_keyframes_and_makes_one_per_segment(backend):
    own = round_of(backend)
    state = own.states(own.tiles[1], Latents())["video"]  # frames 48 to 144
    area, target = 4, 13 * 4
    assert state.target_tokens == target and state.slots.count == 2
    added = state.positions[0, 0, target::area] * 48
    np.testing.assert_allclose(added[:, 0], [0, 48, 96, 24, 72], atol=1e-4)
    np.testing.assert_allclose(added[:, 1] - added[:, 0], 1, atol=1e-4)
    mask = state.mask[0, target::area, 0]
    np.testing.assert_allclose(mask, [0.05, 0.05, 0.05, 1, 1], atol=1e-6)
    assert state.keyframes_mask[0, target::area, 0].tolist() == [0, 0, 0, 1, 1]
    clean = backend.numpy(state.clean)[0, target::area, 0]
    np.testing.assert_allclose(clean, [100, 200, 300, 0, 0])
    # New keyframes start from the nearest frame of the clip: 6 + 24 / 8 and 6 + 72 / 8.
    seeds = backend.numpy(state.latent)[0, target + 3 * area :: area, 0]
    np.testing.assert_allclose(seeds, np.array([9, 15]) * (1 - 0.975), rtol=1e-5)


def test_the_first_frame_is_no_keyframe_of_the_first_tile(backend):
    own = round_of(backend)
    state = own.states(own.tiles[0], Latents())["video"]
    added = state.positions[0, 0, 13 * 4 :: 4, 0] * 48
    np.testing.assert_allclose(added, [48, 96, 24, 72], atol=1e-4)


def test_tiles_are_stitched_without_a_seam_and_keyframes_stay_in_order(backend):
    own = round_of(backend)
    done = Latents()
    for tile in own.tiles:
        latent = own.start.video[:, tile.start // 8 : tile.stop // 8 + 1]
        count, first = (tile.stop - tile.start) // 48, tile.start // 48
        new = np.arange(first, first + count, dtype=np.float32)[None, :, None, None, None]
        made = Latents(latent, None, backend.array(np.broadcast_to(new, (1, count, 2, 2, 128))))
        done = own.joined(tile, done, made)
    video, slots = backend.numpy(done.video), backend.numpy(done.slots)
    np.testing.assert_array_equal(video[0, :, 0, 0, 0], np.arange(19))
    np.testing.assert_array_equal(slots[0, :, 1, 1, 5], [0, 100, 1, 200, 2, 300])


def test_every_tile_has_noise_of_its_own_in_its_sampler(backend):
    own = round_of(backend)
    sampler = own.sampler(1)
    assert (sampler.eta, sampler.noise.seed) == (0.5, own.plan.settings.seed + 1001)


def test_a_run_lasts_as_long_as_asked_and_is_the_same_on_both_backends():
    options = ("frames=41", "fps=24", "dfr.rounds=1")
    results = [run(make_backend(name), *options) for name in ("torch", "mlx")]
    for frames, sink, runner in results:
        assert frames.shape == (81, 64, 64, 3)
        assert sink.waveform.shape == (2, round(81 / 48 * sink.rate))
        assert np.isfinite(frames).all() and frames.std() > 1e-3
        assert not runner.latents
    np.testing.assert_allclose(results[0][0], results[1][0], atol=2e-3)


def test_two_rounds_write_a_file_of_four_times_the_rate(tmp_path):
    settings = model("frames=25", "fps=12", "width=128", "dfr.rounds=2", "checks=off")
    clip = generate(settings, lambda: make_backend("torch"), tmp_path)
    written, record = read_metadata(clip), json.loads((tmp_path / "run.json").read_text())
    assert (written.frames, written.fps) == (97, 48)
    assert (record["frames"], record["fps"]) == (97, 48)


def lora(path, **metadata):
    """A LoRA of rank 1 on one layer of the tiny transformer."""
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    out, width = (
        make_plan(model("frames=9")).headers["checkpoint"].tensors[f"model.{layer}.weight"].shape
    )
    factors = {
        f"{layer}.lora_A.weight": np.ones((1, width), np.float32),
        f"{layer}.lora_B.weight": np.ones((out, 1), np.float32),
    }
    save_file(factors, path, metadata)
    return ["lora=user", f"lora.user.file={path}", "dfr.detailing=user"]


def keys(*options):
    plan = make_plan(model("frames=25", "width=128", *options))
    made = Keys(plan, {}, FP32)
    latents = {s.name: made.latents(s.name) for s in plan.stages[:-1]}
    return latents | {"picture": made.picture(plan.stages[-1], False)}


def test_a_detailing_lora_shows_the_second_stage_the_first_ones_pictures(tmp_path, backend):
    given = lora(tmp_path / "detail.safetensors")
    plain, detailed = keys(), keys(*given)
    assert {name for name in plain if plain[name] == detailed[name]} == {"base", "upscale"}
    frames, _, runner = run(backend, "frames=25", "width=128", "dfr.rounds=0", *given)
    without, _, _ = run(backend, "frames=25", "width=128", "dfr.rounds=0")
    assert np.abs(frames - without).max() > 1e-4
    assert len(runner.outcome.steps) == 8 + 3


def test_the_detailing_loras_reference_is_twice_smaller_unless_it_says_otherwise(tmp_path):
    from ltx2.pipelines.loras import detail_factor

    def factor(**metadata):
        plan = make_plan(model("frames=9", *lora(tmp_path / "detail.safetensors", **metadata)))
        return detail_factor(plan.settings, plan.files)

    assert factor() == 2
    assert factor(reference_downscale_factor="4") == 4


def test_more_rounds_reuse_what_fewer_rounds_made():
    one, two, longer = keys("dfr.rounds=1"), keys("dfr.rounds=2"), keys("frames=17")
    assert {n for n in one if one[n] == two[n]} == {
        "base",
        "upscale",
        "refine",
        "double1",
        "round1",
    }
    # The padded clip is the same, only the end is cut elsewhere.
    assert {n for n in one if one[n] != longer[n]} == {"picture"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["frames=1"], "frames=1 is no clip; pipeline=dfr needs 9 or more"),
        (["frames=25", "dfr.rounds=3"], "dfr.rounds=3 is not in 0 to 2"),
        (["frames=25", "dfr.detailing=fine"], "names no LoRA of the run; there are: none"),
        (["frames=25", "generated_keyframes=2"], "pipeline=dfr chooses its keyframes"),
        (["frames=25", "dfr.detailing=a", "pipeline=distilled"], "no effect on pipeline=distilled"),
        (["frames=20"], "frames=20 is not 8k .* use 17 or 25"),
    ],
)
def test_what_dfr_cannot_do_is_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        make_plan(model(*options))
    assert "\n" not in str(error.value)


def test_a_model_without_keyframes_is_refused():
    whole = {"checkpoint": CHECKPOINTS / "ltx-2.3-tiny.safetensors"}
    named = [f"model.files.{r}.file={p}" for r, p in {**FILES, **whole}.items() if "vae" not in r]
    named.append(f"model.files.text_encoder.file={CHECKPOINTS / 'gemma-3-tiny'}")
    settings = compose(
        ["model=path", *named, "pipeline=dfr", "model.kind=any", "height=64", "width=64"]
    )
    with pytest.raises(UserError, match=r"pipeline=dfr: model=.* was not trained to generate"):
        make_plan(settings)
