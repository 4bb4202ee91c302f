"""`task=train` and `task=evaluate` on the command line: options, mistakes, and tiny trainings."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")

from ltx2.app.compose import compose  # noqa: E402
from ltx2.app.groups import groups  # noqa: E402
from ltx2.app.training import compose_training, training_folder  # noqa: E402
from ltx2.cli import main  # noqa: E402
from ltx2.errors import UserError  # noqa: E402
from ltx2.experiment.adherence import Asked, Judged, figures, held_out_prompts, summary  # noqa: E402
from ltx2.pipelines.files import media_path  # noqa: E402
from ltx2.pocket.checker import compare, read_clip  # noqa: E402
from ltx2.pocket.styles import control, styled  # noqa: E402
from ltx2.pocket.world import Take  # noqa: E402
from ltx2.training.checkpoint import LATEST, load_state  # noqa: E402
from ltx2.training.recipe import run_recipe, stage_options  # noqa: E402
from ltx2.training.running import is_finished, train  # noqa: E402
from ltx2.training.settings import DATA, OBJECTIVES  # noqa: E402
from ltx2.weights.header import read_header  # noqa: E402
from ltx2.weights.lora_file import read_lora  # noqa: E402

GROUPS = groups(training_folder())
TINY = ["data.clips.wide.share=0", "data.clips.long.share=0", "data.clips.large.share=0",
        "data.clips.short.batch=1", "data.clips.short.frames=5", "data.evaluate.large.batch=1",
        "data.evaluate.wide.batch=1", "data.evaluate.large.frames=5", "data.evaluate.wide.frames=5",
        "train.dtype=fp32", "train.log_every=1", "train.save_every=1"]  # fmt: skip
MISTAKES = {
    "objective=video_va": "objective=video_va is unknown; did you mean 'video_vae'?; use audio_vae,"
    " distil, finetune, flow, lora, upsampler, video_vae, vocoder",
    "recipe=pockt": "recipe=pockt is unknown; did you mean 'pocket'?; use none, pocket",
    "train.stepss=3": "'train.stepss' is no key in 'train'; did you mean 'steps'?; use folder,"
    " steps, dtype, clip, average, seed, start, threads, workers, log_every, evaluate_every,"
    " save_every",
    "objective.edges_fro=3": "'objective.edges_fro' is no key in 'objective'; did you mean"
    " 'edges_from'?; use name, edges_from, settle, noise, frozen_encoder, statistics_seed,"
    " emphasis, plain_until",
    "objective=flow objective.tasks.imge=1": "'objective.tasks.imge' is no key in"
    " 'objective.tasks'; did you mean 'image'?; use generate, image, region, independent,"
    " audio_to_video, video_to_audio",
    "data=folder data.folde=x": "'data.folde' is no key in 'data'; did you mean 'folder'?;"
    " use folder, frames, height, width, fps, batch, held_out",
    "data.clips.short.bach=1": "'data.clips.short.bach' is no key in 'data.clips.short'; did you"
    " mean 'batch'?; use batch, frames, height, width, share",
    "optimiser.lr=abc": "optimiser.lr=abc is not a number",
    "optimiser.lr=-1": "optimiser.lr=-1 must be from 0 to inf",
    "schedule.shape=cosin": "schedule.shape=cosin is unknown; did you mean 'cosine'?;"
    " use cosine, linear or constant",
    "train.dtype=fp16": "train.dtype=fp16 is unknown; did you mean 'bf16'?; use fp32 or bf16",
    "train.steps=0": "train.steps=0 must be at least 1",
    "guidance=cfg": "'guidance' is no key or group; --help lists them",
    "-m train.seed=1,2": "task=train takes no -m: one training at a time, or a recipe=NAME",
    "objective._target_=os.system": "objective._target_=os.system is refused: only 'ltx2.' is"
    " called",
    "architecture=nowhere.yaml": "architecture=nowhere.yaml does not exist",
    "train.start=nowhere": "train.start=nowhere does not exist; give the state of a training",
    " ".join(
        f"data.clips.{name}.share=0" for name in ("short", "wide", "long", "large")
    ): "no entry of data.clips has a share above 0; there is nothing to train on",
    "objective=lora data=folder model=pocket": "data.folder is empty; give the folder of clips,"
    " as data.folder=PATH",
    "objective=vocoder": "vocoder stands on a trained audio, and {folder}/audio_vae/"
    "state.safetensors does not exist; train it first, as task=train objective=audio_vae, or give"
    " its folder, as parts.audio=FOLDER",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, tmp_path):
    folder = tmp_path / "x"
    given = ["task=train", f"train.folder={folder}", *arguments.split()]
    assert main(given) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1] == f"error: {MISTAKES[arguments].format(folder=folder)}"
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in GROUPS for option in GROUPS[group]]
)
def test_every_option_composes(group, option):
    settings = compose_training([f"{group}={option}"])
    if group == "objective":
        assert type(settings.objective) is OBJECTIVES[option]
        assert settings.objective.name == option
    if group == "data":
        assert isinstance(settings.data, DATA[option.partition("_")[0]])
    if group == "schedule":
        assert settings.schedule.shape == option


@pytest.mark.parametrize("option", GROUPS["objective"])
def test_objectives_are_functions_of_this_package(option):
    target = compose_training([f"objective={option}"]).objective._target_
    module, _, name = target.rpartition(".")
    assert module == "ltx2.training.stages"
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_the_recipe_composes_and_ends_with_the_export():
    settings = compose_training(["recipe=pocket", "train.folder=/x"])
    stages = settings.recipe.stages
    assert stages[-1].do == "export" and [s.do for s in stages[:-1]] == ["train"] * len(stages[:-1])
    for stage in stages[:-1]:
        own = compose_training(stage_options(stage, settings))
        assert (own.train.folder, own.objective.name) == ("/x", stage.name)


def test_generation_has_no_training_options():
    assert not {"objective", "optimiser", "schedule"} & {f.name for f in fields(compose())}


def tiny(tmp_path: Path, *more: str):
    return compose_training([f"train.folder={tmp_path}", *TINY, "train.steps=2", *more])


def test_a_part_is_trained_recorded_and_then_only_read(tmp_path):
    record = train(tiny(tmp_path))
    folder = tmp_path / "video_vae"
    assert is_finished(tiny(tmp_path)) and record["steps"] == 2
    assert json.loads((folder / "training.json").read_text())["figures"].keys() >= {"loss"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert lines[-1].keys() == {"step", "eval/psnr_64", "eval/psnr_128"}
    before = (folder / LATEST).read_bytes()
    train(tiny(tmp_path))
    assert (folder / LATEST).read_bytes() == before
    train(tiny(tmp_path, "train.steps=3"))  # it may grow
    assert load_state(folder / LATEST)[1]["step"] == 3
    with pytest.raises(UserError, match=r"was trained with optimiser\.lr=\S+, not 0\.1"):
        train(tiny(tmp_path, "train.steps=4", "optimiser.lr=0.1"))


def test_weights_of_another_run_are_a_start(tmp_path):
    train(tiny(tmp_path))
    second = tiny(
        tmp_path, "objective.name=again", f"train.start={tmp_path}/video_vae", "optimiser.lr=0",
        "optimiser.weight_decay=0",
    )  # fmt: skip
    train(second)
    first, _ = load_state(tmp_path / "video_vae" / LATEST)
    begun, _ = load_state(tmp_path / "again" / LATEST)
    name = "decoder.conv_in.conv.weight"
    assert torch.equal(first[f"average.{name}"], begun[f"master.{name}"])


def test_curves_reach_the_trackers(tmp_path):
    class Heard:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *arguments: self.calls.append((name, arguments))

    tracker = Heard()
    train(tiny(tmp_path), {"heard": tracker})
    for _ in range(100):
        if tracker.calls and tracker.calls[-1][0] == "finish":
            break
        __import__("time").sleep(0.05)
    names = [name for name, _ in tracker.calls]
    assert names == ["start", "step", "step", "step", "finish"]
    assert tracker.calls[1][1][0]["stage"] == "video_vae"
    assert tracker.calls[-1][1][0]["status"] == "completed"


def test_a_recipe_skips_what_is_finished(tmp_path, caplog):
    base = tiny(tmp_path, "recipe=pocket")
    stage = base.recipe.stages[0]
    stage.options = ["objective=video_vae", *TINY, "train.steps=1"]
    base.recipe.stages = [stage]
    caplog.set_level("INFO")
    run_recipe(base, compose_training, lambda own: {})
    assert "stage 1 of 1, video_vae" in caplog.text and "finished already" not in caplog.text
    run_recipe(base, compose_training, lambda own: {})
    assert "finished already" in caplog.text


def small_pocket() -> list[str]:
    clips = "data.frames=5 data.height=64 data.width=64 data.batch=1 data.held_out=1"
    return ["data=folder", *clips.split(), "model=pocket", "train.steps=2"]


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    source = Path(media_path("package:pocket/examples/clip.mp4"))
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(source.read_bytes())
        (folder / f"{name}.txt").write_text("a red circle")
    return folder


def from_pocket(tmp_path: Path, clips: Path, *more: str) -> Path:
    from ltx2.app.training import base_settings

    given = [f"train.folder={tmp_path}/out", *small_pocket(), f"data.folder={clips}", *more]
    settings = compose_training(given)
    train(settings, None, base_settings(settings))
    return tmp_path / "out" / settings.objective.name


def test_a_lora_of_a_checkpoint_is_trained_on_a_folder_of_clips(tmp_path, clips):
    folder = from_pocket(tmp_path, clips, "objective=lora", "objective.layers=[attn1.to_q]",
                         "train.dtype=fp32", "objective.rank=2")  # fmt: skip
    lora = read_lora(folder / "lora.safetensors")
    assert lora.ranks == (2,) and {p.module.rpartition(".")[2] for p in lora.pairs} == {"to_q"}
    assert (folder / LATEST).stat().st_size < 1_000_000  # without the model


def test_a_checkpoint_is_fine_tuned_whole(tmp_path, clips):
    folder = from_pocket(tmp_path, clips, "objective=finetune", "train.dtype=fp32")
    old = read_header(media_path("package:pocket/ltx-2-pocket.safetensors"))
    new = read_header(folder / "model.safetensors")
    assert new.metadata == old.metadata
    kinds = [{n: (t.dtype, t.shape) for n, t in h.tensors.items()} for h in (old, new)]
    assert kinds[0] == kinds[1]


def test_a_layer_that_does_not_exist_is_named(tmp_path, clips):
    with pytest.raises(UserError, match=r"layers=\['attn9'\] fits none of the \d+ linear"):
        from_pocket(tmp_path, clips, "objective=lora", "objective.layers=[attn9]")


def test_a_clip_without_a_caption_is_named(tmp_path, clips):
    (clips / "b.txt").unlink()
    with pytest.raises(UserError, match=r"1 clips .* no caption, first 'b.mp4': write it into"):
        from_pocket(tmp_path, clips, "objective=lora")


@pytest.mark.parametrize(
    ("key", "message"),
    [("data.frames=6", "is not 1 . 4k; use 5 or 9"), ("data.height=70", "use 64 or 80")],
)
def test_sizes_that_the_model_cannot_encode_are_refused(key, message, tmp_path, clips):
    given = [text for text in small_pocket() if text.split("=")[0] != key.split("=")[0]]
    settings = compose_training(
        [f"train.folder={tmp_path}/o", *given, key, "objective=lora", f"data.folder={clips}"]
    )
    from ltx2.app.training import base_settings

    with pytest.raises(UserError, match=message):
        train(settings, None, base_settings(settings))


# --- styles and the evaluation


def test_styles_keep_the_range_and_change_the_picture():
    clip = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    for style in ("pastel", "sepia", "negative"):
        out = styled(clip, style)
        assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
        assert np.abs(out - clip).mean() > 0.1
    assert styled(clip, "") is clip
    with pytest.raises(UserError, match="style=sepa is unknown; did you mean 'sepia'"):
        styled(clip, "sepa")


def test_the_control_video_is_white_edges_on_black():
    clip = np.zeros((1, 32, 32, 3), np.float32)
    clip[:, 8:24, 8:24] = 1
    lines = control(clip, "edges")
    assert set(np.unique(lines)) == {0, 1} and 0.02 < lines.mean() < 0.2


def test_true_clips_are_all_right_and_a_wrong_one_is_not():
    rng, judged = np.random.default_rng(1), []
    asked = held_out_prompts(4, 1, 0)
    assert asked == held_out_prompts(4, 1, 0)
    for index, item in enumerate(asked):
        take = Take.draw(item.scene if index else asked[1].scene, rng)
        reading = read_clip(take.frames(25, 64, 96), take.sound(25 / 12, 16000, 1.5), 16000)
        judged.append(Judged(Asked(item.prompt, item.scene), reading,
                             compare(reading, item.scene), 1.0))  # fmt: skip
    rows = summary(judged)
    assert (rows["everything"]["right"], rows["everything"]["of"]) == (75.0, 4)
    assert figures(judged)["seconds_per_clip"] == 1.0


def test_options_of_the_evaluation_need_its_task(capsys, tmp_path):
    assert main(["evaluate.count=3", f"paths.outputs={tmp_path}"]) == 2
    assert "evaluate.count has no effect: task=generate does not use it" in capsys.readouterr().err
    assert main(["task=evaluate", "evaluate.things=3", f"paths.outputs={tmp_path}"]) == 2
    assert "evaluate.things=3 is not 1 or 2" in capsys.readouterr().err


def test_config_files_name_a_file_that_exists():
    content = yaml.safe_load((training_folder() / "config.yaml").read_text())
    assert Path(media_path(content["architecture"])).is_file()
