"""Models in several files (LTX-2.5): which sets of files are a model, and what they default to."""

from __future__ import annotations

import json

import pytest
from checkpoint_files import read_raw, write_raw
from conftest import GOLDEN, make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.video import read_metadata
from ltx2.pipelines.durations import clip_frames, snapped
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.settings import DurationSettings
from ltx2.weights.dtype_policy import COMPONENTS

CHECKPOINTS = GOLDEN / "checkpoints"
TINY = CHECKPOINTS / "ltx-2.5-tiny"
FILES = {
    "checkpoint": TINY / "diffusion_models/ltx-2.5-tiny-transformer.safetensors",
    "text_encoder": TINY / "text_encoders/gemma4-tiny-with-proj.safetensors",
    "video_vae": TINY / "vae/ltx-2.5-tiny-video-vae-conv.safetensors",
    "audio_vae": TINY / "vae/ltx-2.5-tiny-audio-vae.safetensors",
    "duration_head": TINY / "model_patches/ltx-2.5-tiny-duration-head.safetensors",
    "spatial_upscaler": CHECKPOINTS / "spatial-upscaler-x2-tiny.safetensors",
}
WHOLE = {
    "checkpoint": CHECKPOINTS / "ltx-2.3-tiny.safetensors",
    "text_encoder": CHECKPOINTS / "gemma-3-tiny",
    "spatial_upscaler": CHECKPOINTS / "spatial-upscaler-x2-tiny.safetensors",
}
SIZE = ("pipeline=distilled", "height=64", "width=64", "model.kind=any", "dtype=fp32")
AUTO = ("frames=auto", "duration.min_seconds=0.3", "duration.max_seconds=0.4")


def model(*options, files=FILES, **replaced):
    given = {**files, **replaced}
    named = [f"model.files.{role}.file={path}" for role, path in given.items() if path]
    return compose(["model=path", *named, *SIZE, *options])


def test_the_parts_of_a_split_model_are_planned_together():
    plan = make_plan(model("frames=9"))
    assert plan.header_of("video_vae").path == FILES["video_vae"]
    assert plan.header_of("audio_vae").path == FILES["audio_vae"]
    assert (plan.settings.model.generation, plan.audio.output_rate) == ("2.5", 48000)


def test_a_whole_model_file_takes_another_video_vae():
    plan = make_plan(model("frames=9", files=WHOLE, video_vae=FILES["video_vae"]))
    assert plan.header_of("video_vae").path == FILES["video_vae"]
    assert plan.header_of("audio_vae").path == WHOLE["checkpoint"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video_vae": FILES["audio_vae"]}, r"video_vae: .* holds no video VAE decoder"),
        ({"audio_vae": FILES["video_vae"]}, r"audio_vae: .* holds no audio VAE decoder"),
        ({"files": WHOLE, "audio_vae": FILES["audio_vae"]}, "only the video VAE can be replaced"),
        ({"text_encoder": WHOLE["text_encoder"]}, "was trained with text encoder 'tiny-gemma4-a'"),
        ({"files": WHOLE, "text_encoder": FILES["text_encoder"]}, "needs Gemma 3 12B"),
        ({"text_encoder": CHECKPOINTS / "gemma-4-tiny"}, "holds the text projections"),
        ({"checkpoint": FILES["video_vae"]}, "checkpoint: .* not a model file"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as error:
        make_plan(model("frames=9", "model.release=2.5", **given))
    assert "\n" not in str(error.value)


def test_a_transformer_alone_names_the_files_it_lacks():
    with pytest.raises(UserError, match=r"without VAEs; give model\.files\.audio_vae\.file as"):
        make_plan(model("frames=9", "model.release=2.3", audio_vae=None))


def test_a_vae_of_another_width_is_refused(tmp_path):
    raw, metadata = read_raw(FILES["checkpoint"])
    config = json.loads(metadata["config"])
    config["transformer"]["audio_in_channels"] = config["transformer"]["audio_out_channels"] = 48
    name = "model.diffusion_model.audio_patchify_proj.weight"
    raw[name] = ("BF16", (32, 48), bytes(32 * 48 * 2))
    for part, shape in (("weight", (48, 32)), ("bias", (48,))):
        size = 2 * 48 * (32 if part == "weight" else 1)
        raw[f"model.diffusion_model.audio_proj_out.{part}"] = ("BF16", shape, bytes(size))
    told = metadata | {"config": json.dumps(config)}
    path = write_raw(tmp_path / "wide.safetensors", raw, told)
    with pytest.raises(UserError, match=r"audio_vae: .* latents of 32 channels, wide.* takes 48"):
        make_plan(model("frames=9", checkpoint=path))


def test_the_first_distilled_stage_of_2_5_is_ancestral_unless_another_sampler_is_chosen():
    def samplers(*options, **files):
        settings = make_plan(model("frames=9", *options, **files)).settings
        stages = [stage.sampler for stage in settings.pipeline.stages if stage.do == "sample"]
        return settings.sampler.kind, stages

    assert samplers() == ("euler", ["euler_ancestral", "main"])
    assert samplers(files=WHOLE) == ("euler", ["euler", "main"])
    assert samplers("sampler=gradient_estimation") == ("gradient_estimation", ["main", "main"])
    assert samplers("sampler=euler") == ("euler", ["main", "main"])


def test_every_part_counts_in_the_keys_of_stages(tmp_path):
    def key(**files):
        keys = Keys(make_plan(model("frames=9", **files)), {}, dict.fromkeys(COMPONENTS, "fp32"))
        return keys.latents("base")

    raw, metadata = read_raw(FILES["audio_vae"])
    other = write_raw(tmp_path / "audio.safetensors", raw, metadata | {"note": "retrained"})
    assert key() == key() != key(audio_vae=other)


@pytest.mark.parametrize(("given", "frames"), [("1", (4,)), ("3", (2, 4, 6)), ("[7,0,7]", (0, 7))])
def test_generated_keyframes_are_spread_or_listed(given, frames):
    assert make_plan(model("frames=9", f"generated_keyframes={given}")).keyframe_slots == frames


@pytest.mark.parametrize(
    ("options", "files", "message"),
    [
        (["generated_keyframes=1"], WHOLE, "was not trained to generate keyframes"),
        (["generated_keyframes=8"], FILES, "=8 does not fit a clip of 9 frames; give 0 to 7"),
        (["generated_keyframes=[9]"], FILES, "goes beyond the clip's frames 0 to 8"),
        (["generated_keyframes=many"], FILES, "is no number of frames and no list"),
        (["generated_keyframes=1", "pipeline=keyframe_interpolation"], FILES, "has no effect on"),
    ],
)
def test_keyframes_that_cannot_be_generated_are_refused(options, files, message):
    with pytest.raises(UserError, match=message):
        make_plan(model("frames=9", *options, files=files))


def test_generated_keyframes_change_only_the_stages_that_have_them():
    def keys(given):
        plan = make_plan(model("frames=9", f"generated_keyframes={given}"))
        made = Keys(plan, {}, dict.fromkeys(COMPONENTS, "fp32"))
        return made.text(False), made.latents("base")

    none, one = keys(0), keys(1)
    assert none[0] == one[0] and none[1] != one[1]


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(0.2, 24, 25), (1.0, 24, 25), (2.51, 25, 57), (7.77, 30, 233), (33.0, 24, 473)],
)
def test_seconds_become_frames_of_the_grid_within_the_limits(seconds, fps, frames):
    assert clip_frames(seconds, fps, DurationSettings()) == frames


def test_frames_are_snapped_down_and_never_below_one():
    assert [snapped(n) for n in (0, 1, 8, 9, 16, 17)] == [1, 1, 1, 9, 9, 17]


@pytest.mark.parametrize(
    ("options", "files", "message"),
    [
        (["frames=auto"], WHOLE, "frames=auto needs a duration head"),
        (["frames=soon"], FILES, "frames=soon is not a whole number or auto"),
        (["frames=auto", "duration.min_seconds=30"], FILES, r"0 < min_seconds <= max_seconds"),
        (["frames=auto"], FILES | {"duration_head": FILES["audio_vae"]}, "holds no duration head"),
    ],
)
def test_a_length_that_nobody_can_tell_is_refused(options, files, message):
    with pytest.raises(UserError, match=message):
        make_plan(model(*options, files=files))


def test_an_automatic_length_is_planned_with_the_most_frames():
    plan = make_plan(model("frames=auto"))
    assert plan.wants_duration and plan.frames == 473
    assert not make_plan(model("frames=9")).wants_duration


def test_a_run_lasts_as_long_as_the_duration_head_says(tmp_path):
    settings = model(*AUTO, "checks=off", "output.contact_sheet=false")
    clip = generate(settings, lambda: make_backend("torch"), tmp_path)
    assert read_metadata(str(clip)).frames == 9
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["frames"] == 9 and record["stages"][0]["name"] == "text"
