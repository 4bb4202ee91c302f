"""Every config file composes, alone and with the others, into what the schema says."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from ltx2.app.compose import compose
from ltx2.app.groups import defaults, groups
from ltx2.app.sweeper import register_plugins
from ltx2.pipelines.catalogue import conf_folder

CONF = conf_folder()
GROUPS = groups(CONF)
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
TILES = {"frames": 80, "frames_overlap": 24}
PIXELS = {"height": 768, "height_overlap": 64, "width": 768, "width_overlap": 64}


def files() -> list[Path]:
    return sorted(CONF.rglob("*.yaml"))


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_for_both_backends(group, option, backend):
    given = [] if group == "backend" else [f"backend={backend}"]
    settings = compose([f"{group}={option}", *given])
    named = {
        "model": lambda: settings.model.name,
        "pipeline": lambda: settings.pipeline.name,
        "sampler": lambda: settings.sampler.kind,
        "output": lambda: settings.output.format,
        "dtype": lambda: settings.dtype.default,
        "lora": lambda: next(iter(settings.lora)),
        "conditioning": lambda: next(iter(settings.conditioning)),
    }
    if group in named:
        assert named[group]() == option


@pytest.mark.parametrize("pipeline", GROUPS["pipeline"])
@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_pipeline_composes_with_every_model(pipeline, model):
    settings = compose([f"pipeline={pipeline}", f"model={model}"])
    assert (settings.pipeline.name, settings.model.name) == (pipeline, model)
    follows_list = pipeline in ("distilled", "ic_lora", "ic_lora_draft", "dub")
    distilled = follows_list or settings.model.kind == "distilled"
    assert (settings.scheduler.kind == "list") == distilled
    plain = distilled or pipeline in ("text_to_audio", "video_to_audio")
    assert (settings.guidance.video.cfg == 1.0) == plain
    if distilled:
        assert settings.scheduler.sigmas == settings.schedules["distilled"]


def test_without_arguments_the_pocket_model_runs_in_two_stages():
    settings = compose()
    assert (settings.model.name, settings.pipeline.name) == ("pocket", "two_stage")
    assert settings.backend._target_ == "ltx2.backends.torch.TorchBackend"
    assert settings.negative_prompt is None and settings.height is None
    assert settings.lora == {} and settings.conditioning == {}


def test_the_first_comment_of_the_defaults_list_is_what_groups_report():
    assert defaults(CONF)["model"] == "pocket"
    assert set(defaults(CONF)) == {*GROUPS, "hydra"}


def test_schedules_are_those_of_the_distilled_models():
    schedules = compose().schedules
    first = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
    assert schedules == {"distilled": first, "stage2": [0.909375, 0.725, 0.421875, 0.0]}


def test_the_command_line_wins_over_a_pipeline_and_a_model():
    settings = compose(["pipeline=distilled", "model=distilled", "scheduler=beta"])
    assert settings.scheduler.kind == "beta"
    assert settings.scheduler.sigmas is None


def test_the_command_line_wins_over_a_preset():
    assert compose(["experiment=exact"]).dtype.default == "fp32"
    assert compose(["experiment=exact", "dtype=bf16"]).dtype.default == "bf16"
    assert compose(["experiment=hires", "width=640"]).width == 640


def test_presets_stack_and_the_last_wins(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    for name, dtype, seed in (("first", "bf16", 1), ("second", "fp32", 2)):
        (folder / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - override /dtype: {dtype}\nseed: {seed}\n"
        )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    for order in (("first", "second"), ("second", "first")):
        settings = compose([search, f"experiment=[{','.join(order)}]"])
        expected = {"first": ("bf16", 1), "second": ("fp32", 2)}[order[-1]]
        assert (settings.dtype.default, settings.seed) == expected


def test_a_preset_wins_over_what_a_pipeline_overrides(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "curved.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /scheduler: beta\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    settings = compose([search, "pipeline=distilled", "experiment=curved"])
    assert settings.scheduler.kind == "beta"


@pytest.mark.parametrize("model", [name for name in GROUPS["model"] if "2.3" in name])
def test_models_of_2_3_differ_from_2_0_in_steps_and_stg_block(model):
    settings = compose([f"model={model}"]).model
    assert (settings.generation, settings.preset.steps) == ("2.3", 30)
    assert settings.preset.guidance.video.stg_blocks == [28]
    assert settings.preset.guidance.audio.cfg == 7.0
    assert all(
        "2.3" in file.file for role, file in settings.files.items() if role != "text_encoder"
    )


def test_presets_of_the_released_models_are_those_of_the_official_pipelines():
    preset = compose(["model=dev"]).model.preset
    assert (preset.height, preset.width, preset.frames, preset.fps) == (512, 768, 121, 24.0)
    video, audio = preset.guidance.video, preset.guidance.audio
    assert (video.cfg, video.stg, video.rescale, video.modality) == (3.0, 1.0, 0.7, 3.0)
    assert (audio.cfg, audio.stg_blocks, preset.steps, preset.image_crf) == (7.0, [29], 40, 33)


def test_tile_sizes_follow_the_option():
    tiling = {name: vars(compose([f"tiling={name}"]).tiling) for name in GROUPS["tiling"]}
    assert tiling["off"]["mode"] == "off" and tiling["auto"]["mode"] == "auto"
    assert TILES.items() <= tiling["temporal"].items() and tiling["temporal"]["height"] == 0
    assert PIXELS.items() <= tiling["spatial"].items() and tiling["spatial"]["frames"] == 0
    assert (TILES | PIXELS).items() <= tiling["both"].items()


def test_a_lora_file_can_be_used_twice():
    settings = compose(
        ["lora=user", "lora.user.file=a", "+lora@lora.second=user", "lora.second.file=b"]
    )
    assert {name: lora.file for name, lora in settings.lora.items()} == {"user": "a", "second": "b"}


def test_loras_keep_their_order():
    settings = compose(["lora=[camera_static,camera_jib_up]"])
    assert list(settings.lora) == ["camera_static", "camera_jib_up"]


def test_switching_the_backend_switches_its_keys():
    assert not hasattr(compose(["backend=mlx"]).backend, "attention")
    assert compose(["backend=torch", "backend.attention=sdpa"]).backend.attention == "sdpa"


def test_models_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LTX2_MODELS", "/weights")
    assert compose().paths.models == "/weights"


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_targets_exist_and_take_the_keys_beside_them(path):
    register_plugins()
    node = yaml.safe_load(path.read_text())
    for part in [node, *(node.get("callbacks") or {}).values()]:
        if "_target_" not in part:
            continue
        module, _, name = part["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        keys = {key: None for key in part if key not in ("_target_", "defaults")}
        inspect.signature(target).bind(**keys)


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_job_files_do_not_refer_to_hydra_and_stay_short(path):
    text = path.read_text()
    assert path.parent.name == "hydra" or "${hydra:" not in text
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 100
