"""Wrong names, values and combinations on the command line: one line, exit code 2, nothing left."""

from __future__ import annotations

import pytest

from ltx2.app.groups import group_options
from ltx2.cli import main
from ltx2.pipelines.catalogue import conf_folder

MODELS = (
    "2.3-dev, 2.3-dev-fp4, 2.3-dev-fp8, 2.3-distilled, 2.3-distilled-fp8, 2.5-dev, 2.5-distilled,"
    " dev, dev-fp4, dev-fp8, distilled, distilled-fp8, path, pocket"
)
MISTAKES = {
    "pipline=two_stage": "'pipline' is no key or group; did you mean 'pipeline'?;"
    " --help lists them",
    "sede=3": "'sede' is no key or group; did you mean 'seed'?; --help lists them",
    "+sede=3": "'sede' is no key or group; did you mean 'seed'?; --help lists them",
    "model=distiled": f"model=distiled is unknown; did you mean 'distilled'?; use {MODELS}",
    "-m model=pocket,deb": f"model=deb is unknown; did you mean 'dev'?; use {MODELS}",
    "experiment=[exact,prevue]": "experiment=prevue is unknown; did you mean 'preview'?; use "
    + ", ".join(group_options(conf_folder(), "experiment")),
    "lora=null": "lora=null chooses nothing; use camera_dolly_in, camera_dolly_left,"
    " camera_dolly_out, camera_dolly_right, camera_jib_down, camera_jib_up, camera_static, user,"
    " or [] for none",
    "lora=user lora.usr.file=x": "lora.usr: no entry 'usr'; did you mean 'user'?; chosen: user",
    "lora.user.file=x": "lora.user: no entry 'user'; choose one first, as lora=user",
    "+lora.mine.fil=x": "'lora.mine.fil' is no key in 'lora.mine'; did you mean 'file'?;"
    " use file, source, strength, stages, schedule, fused, allow_partial",
    "lora=user +lora.user.file=x": "lora.user.file exists already; write lora.user.file=VALUE"
    " without +",
    "lora=user lora.user.schedule={0.5:x}": "lora.user.schedule={0.5:x} is not a table such as"
    " {0.9:1.0,0.4:0.5}",
    "guidance.video.by_sigma={0.5:{cgf:2}}": "guidance.video.by_sigma={0.5:{cgf:2}} is not a table"
    " such as {0.5:{cfg:2.0}}",
    "seed=abc": "seed=abc is not a whole number",
    "seed=null": "seed=null is not a whole number",
    "-m seed=1,abc": "seed=abc is not a whole number",
    "height=12.5": "height=12.5 is not a whole number or null",
    "snap=maybe": "snap=maybe is not true or false",
    "schedules.stage2=[1,x]": "schedules.stage2=[1,x] is not a list of numbers such as [1.0,0.5]",
    "scheduler.sigmas=abc": "scheduler.sigmas=abc is not a list of numbers such as [1.0,0.5,0.0]",
    "lora=user lora.user.strength=big": "lora.user.strength=big is not a number",
    "backend.devise=cpu": "'backend.devise' is no key of backend=torch; did you mean 'device'?;"
    " use device, attention, neighbourhood, compile",
    "backend=mlx backend.attention=sdpa": "'backend.attention' is no key of backend=mlx;"
    " use device",
    "backend=mlx backend.compile=blocks": "'backend.compile' is no key of backend=mlx; use device",
    "guidance.video.cgf=3": "'guidance.video.cgf' is no key in 'guidance.video';"
    " did you mean 'cfg'?; use cfg, stg, stg_blocks, rescale, modality, skip_step,"
    " eta, threshold, momentum, by_sigma",
    "scheduler.kind.x=3": "scheduler.kind.x: scheduler.kind is a single value without keys"
    " below it",
    "~model": "~model: nothing can be removed; choose another option, or [] for lists",
    "seed=1 seed=2": "seed is given 2 times; keep one",
    "+seed=3": "seed exists already; write seed=VALUE without +",
    "seed": "'seed' is not KEY=VALUE; see --help, and give a prompt as --prompt 'seed'",
    "prompt=hi!": "prompt has characters the override grammar reads otherwise; use --prompt 'TEXT'",
    "prompt=a,b": "prompt=a,b reads as a sweep; use --prompt 'TEXT' for one text",
    "seed=1,2": "seed=1,2 reads as a sweep; add -m to run every value,"
    " or write a list as seed=[1,2]",
    "--multirn": "--multirn is no option; did you mean '--multirun'?; see --help",
    "task=generat": "task=generat is unknown; did you mean 'generate'?;"
    " use evaluate, generate, train",
    "output.crf=${sed}": "output.crf: Interpolation key 'sed' not found",
    "scheduler=custom": "scheduler.sigmas is empty; give it, as scheduler.sigmas=[1.0,0.7,0.4,0.0]",
    "lora=user": "lora.user.file is empty; give the file, as lora.user.file=PATH",
    "conditioning=image": "conditioning.image.path is empty; give it,"
    " as conditioning.image.path=cat.png",
    "model=path": "model.files.checkpoint.file is empty; give the file,"
    " as model.files.checkpoint.file=PATH",
}
WITHOUT_EFFECT = {
    "sampler.eta=0.3": "sampler=auto does not use it",
    "sampler=res_2s sampler.s_noise=1.0": "sampler=res_2s does not use it",
    "scheduler=beta scheduler.terminal=0.1": "scheduler=beta does not use it",
    "pipeline=distilled scheduler.steps=8": "the 9 given sigmas are the whole schedule",
    "tiling.frames=16": "tiling.mode is auto, not size",
    "tiling=temporal tiling.height_overlap=32": "tiling.height=0 leaves the axis whole",
    "output=gif output.crf=20": "output=gif does not use it",
    "output=webm output.preset=fast": "output=webm does not use it",
    "pipeline=distilled negative_prompt=fog": "guidance without cfg reads no negative prompt",
    "pipeline=one_stage schedules.stage2=[0.9,0.0]": "no stage of pipeline=one_stage follows it",
    "input.video=clip.mp4": "pipeline=two_stage starts from nothing but the prompt",
    "pipeline=one_stage model.files.spatial_upscaler.file=x": "pipeline=one_stage model=pocket"
    " does not read it",
}


@pytest.mark.parametrize(("arguments", "line"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_with_the_nearest_name(
    arguments, line, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    told = capsys.readouterr().err.splitlines()
    errors = [text for text in told if text.startswith("error: ")]
    assert errors == [f"error: {line}"] * len(errors) and errors
    assert not any("Traceback" in text for text in told)
    assert not list(tmp_path.rglob("*.*")), "files were left behind"


@pytest.mark.parametrize(("arguments", "reason"), WITHOUT_EFFECT.items(), ids=list(WITHOUT_EFFECT))
def test_a_key_without_effect_is_refused(arguments, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = arguments.split()[-1].partition("=")[0]
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err == f"error: {key} has no effect: {reason}; drop it\n"


def test_an_empty_negative_prompt_is_never_without_effect(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["pipeline=distilled", "negative_prompt=", "height=1"])
    assert "height=1 is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sed: 3", "in config file 'experiment/odd': Key 'sed' not in 'Root' (key sed)"),
        (
            "seed: three",
            "in config file 'experiment/odd': Value 'three' of type 'str' could not be converted"
            " to Integer (key seed)",
        ),
    ],
)
def test_a_mistake_in_a_config_file_names_the_file(text, line, tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "odd.yaml").write_text(f"# @package _global_\n{text}\n")
    assert main(["--config-dir", str(tmp_path), "experiment=odd", "--cfg", "job"]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
