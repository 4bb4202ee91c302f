"""A checkpoint by path gets the preset of its version; what the user sets still wins."""

from __future__ import annotations

import logging

import pytest
from checkpoint_files import read_raw, write_raw

from ltx2.app.compose import compose
from ltx2.app.effects import check_effects, check_required
from ltx2.app.schema import Root
from ltx2.errors import MissingFile, UserError
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.presets import release_of, releases, warn_of_other_release, with_release
from ltx2.pipelines.prompts import negative_prompt
from ltx2.pipelines.schedules import stage_sigmas
from ltx2.pipelines.settings import StageSettings
from ltx2.weights.header import read_header

FAST = ("pipeline=one_stage", "guidance=cfg", "height=64", "width=64", "frames=9")


def by_path(path, *options, golden=None) -> Root:
    files = [f"model.files.checkpoint.file={path}"]
    if golden is not None:
        files.append(f"model.files.text_encoder.file={golden / 'checkpoints' / 'gemma-3-tiny'}")
    return compose(["model=path", *files, *options])


def versioned(golden, tmp_path, version, name="model"):
    """A copy of the tiny 2.3 model that states another version; None states none."""
    raw, metadata = read_raw(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    metadata.pop("model_version")
    told = {} if version is None else {"model_version": version}
    return write_raw(tmp_path / f"{name}.safetensors", raw, metadata | told)


@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ((), "2.0"), ((1, 9), "2.0"), ((2, 0, 0), "2.0"), ((2, 2, 9), "2.0"), ((2, 3), "2.3"),
        ((2, 3, 1), "2.3"), ((2, 4), "2.4"), ((2, 5, 0), "2.5"), ((3, 0), "2.5"),
    ],
)  # fmt: skip
def test_the_newest_row_not_above_the_version_counts(version, generation):
    assert release_of(version).generation == generation


def test_rows_differ_in_steps_stg_block_and_image_compression():
    rows = {row.generation: row.preset for row in releases()}
    told = {
        name: (p.steps, p.guidance.video.stg_blocks, p.guidance.audio.stg_blocks, p.image_crf)
        for name, p in rows.items()
    }
    assert told == {
        "2.0": (40, [29], [29], 33), "2.3": (30, [28], [28], 33), "2.4": (30, [28], [28], 18),
        "2.5": (30, [28], [28], 18),
    }  # fmt: skip
    for preset in rows.values():
        video, audio = preset.guidance.video, preset.guidance.audio
        assert (preset.height, preset.width, preset.frames, preset.fps) == (512, 768, 121, 24.0)
        assert (video.cfg, video.stg, video.rescale, video.modality) == (3.0, 1.0, 0.7, 3.0)
        assert (audio.cfg, audio.stg, audio.rescale, audio.modality) == (7.0, 1.0, 0.7, 3.0)


@pytest.mark.parametrize(
    ("model", "version"), [("dev", (2, 0)), ("2.3-dev", (2, 3)), ("2.5-dev", (2, 5))]
)
def test_rows_are_what_the_released_models_compose_to(model, version):
    composed, row = compose([f"model={model}"]).model, release_of(version)
    assert composed.preset == row.preset and composed.generation == row.generation
    files = dict(composed.files)
    del files["checkpoint"]
    assert files == row.files


@pytest.mark.parametrize(
    ("version", "steps", "crf"), [(None, 40, 33), ("2.3.0", 30, 33), ("2.5-rc", 30, 18)]
)
def test_a_model_by_path_gets_the_preset_of_its_version(golden, tmp_path, version, steps, crf):
    path = versioned(golden, tmp_path, version)
    image = ["conditioning=image", f"conditioning.image.path={golden / 'media' / 'image_a.png'}"]
    plan = make_plan(by_path(path, *FAST, *image, "model.kind=dev", golden=golden))
    assert len(plan.stages[0].sigmas) == steps + 1
    assert plan.settings.conditioning["image"].crf == crf
    assert plan.settings.guidance.audio.cfg == 7.0
    assert plan.settings.negative_prompt == negative_prompt()


def test_explicit_keys_win_over_the_row(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0")
    own = ["scheduler.steps=3", "guidance.video.cfg=2.5", "negative_prompt=fog", "fps=12"]
    settings = make_plan(by_path(path, *FAST, *own, "model.kind=dev", golden=golden)).settings
    assert (settings.scheduler.steps, settings.guidance.video.cfg) == (3, 2.5)
    assert (settings.negative_prompt, settings.fps) == ("fog", 12.0)
    forced = with_release(by_path(path, "model.kind=dev", "model.release=2.0")).model
    assert (forced.preset.steps, forced.generation, forced.release) == (40, "2.3", "2.0")


def test_files_that_are_not_named_are_those_of_the_release(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0")
    model = with_release(by_path(path, "model.kind=dev", golden=golden)).model
    assert model.files["distilled_lora"].file == "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
    assert model.files["text_encoder"].file.endswith("gemma-3-tiny")
    assert (model.generation, model.release) == ("2.3", "2.3")


@pytest.mark.parametrize("kind", ["dev", "distilled"])
def test_the_kind_is_what_the_file_name_says(golden, tmp_path, kind):
    path = versioned(golden, tmp_path, "2.3.0", f"my-{kind}-tune")
    assert with_release(by_path(path)).model.kind == kind


def test_the_kind_is_what_the_metadata_says(golden, tmp_path):
    raw, metadata = read_raw(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    told = metadata | {"model_type": "distilled"}
    path = write_raw(tmp_path / "tune.safetensors", raw, told)
    assert with_release(by_path(path)).model.kind == "distilled"


def test_a_file_that_does_not_say_its_kind_needs_it_given(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0")
    with pytest.raises(UserError, match=r"l\.safetensors does not say whether .*kind=distilled"):
        make_plan(by_path(path, *FAST, golden=golden))


def test_a_distilled_file_by_path_names_the_options_it_needs(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0", "tune-distilled")
    with pytest.raises(UserError, match=r"use scheduler=distilled guidance=none"):
        make_plan(by_path(path, *FAST, golden=golden))
    fixed = ["scheduler=distilled", "guidance=none"]
    small = [option for option in FAST if not option.startswith("guidance")]
    plan = make_plan(by_path(path, *small, *fixed, golden=golden))
    assert plan.stages[0].transformer_calls == 8


def test_a_dev_file_by_path_cannot_follow_the_distilled_list(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0", "tune-dev")
    with pytest.raises(UserError, match="model=path is not distilled and cannot follow"):
        make_plan(by_path(path, *FAST, "scheduler=distilled", golden=golden))


def test_an_absent_checkpoint_is_listed_with_the_usual_files(tmp_path):
    missing = by_path("nowhere.safetensors", f"paths.models={tmp_path}", "pipeline=two_stage")
    with pytest.raises(MissingFile, match=r"(?s)checkpoint: nowhere.*gemma-3-12b.*upscaler-x2"):
        make_plan(missing)


def test_a_lora_as_model_is_still_called_a_lora(golden):
    path = golden / "checkpoints" / "lora-tiny.safetensors"
    with pytest.raises(UserError, match=r"lora-tiny\.safetensors is a LoRA, not a model"):
        make_plan(by_path(path, *FAST, golden=golden))


def test_an_unknown_row_names_the_known_ones(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0")
    with pytest.raises(UserError, match=r"model\.release=2\.2 is unknown.*use auto, 2\.0, 2\.3, 2"):
        with_release(by_path(path, "model.kind=dev", "model.release='2.2'"))


def test_a_complete_model_is_left_as_it_is():
    settings = compose(["model=pocket"])
    assert with_release(settings) == settings


def test_a_packaged_negative_prompt_becomes_its_text():
    settings = compose(["model=dev"])
    assert settings.model.preset.negative_prompt.startswith("package:")
    assert with_release(settings).model.preset.negative_prompt == negative_prompt()


def test_a_named_model_with_a_file_of_another_generation_is_warned_about(golden, caplog):
    checkpoint = read_header(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    with caplog.at_level(logging.WARNING):
        warn_of_other_release(compose(["model=2.3-dev"]).model, checkpoint)
        warn_of_other_release(compose(["model=path"]).model, checkpoint)
        assert not caplog.records
        warn_of_other_release(compose(["model=dev"]).model, checkpoint)
    assert "model=dev has the preset of LTX-2.0, but ltx-2.3-tiny" in caplog.text


def test_keys_of_a_preset_that_the_checkpoint_brings_are_refused():
    settings = by_path("x.safetensors", "pipeline=two_stage", "negative_prompt=fog")
    check_required(settings)
    check_effects(settings, ["negative_prompt", "model.files.distilled_lora.file"])
    with pytest.raises(UserError, match=r"model\.preset\.steps has no effect: model\.release=auto"):
        check_effects(settings, ["model.preset.steps"])


def test_a_dev_model_may_follow_any_list_given_by_hand():
    settings = compose(["model=dev", "scheduler=custom", "scheduler.sigmas=[1.0,0.5,0.0]"])
    assert stage_sigmas(settings, StageSettings(name="base"), 4096) == (1.0, 0.5, 0.0)


def test_a_recorded_preset_stays_when_the_run_is_repeated(golden, tmp_path):
    path = versioned(golden, tmp_path, "2.3.0")
    first = make_plan(by_path(path, *FAST, "model.kind=dev", golden=golden)).settings
    again = make_plan(first).settings
    assert again == first
