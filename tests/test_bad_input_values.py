"""Numbers and names that no run can use: one line with the value and what to do instead."""

from __future__ import annotations

import pytest
from hostile_runs import CommandLine

from ltx2.backends import installed

SIZES = {
    "frames=4": "frames=4 is not 4k + 1; use 1 or 5, or snap=true to round",
    "frames=0": "frames=0 is not positive; use 1 or 5",
    "frames=-5": "frames=-5 is not positive; use 1 or 5",
    "frames=5.0": "frames=5.0 is not a whole number or auto",
    "frames=0 snap=true": "frames=0 is not positive; use 1 or 5",
    "height=65": "height=65 is not a multiple of 16; use 64 or 80, or snap=true to round",
    "height=0": "height=0 is not positive; use 16 or 32",
    "width=-64": "width=-64 is not positive; use 16 or 32",
    "height=40 pipeline=two_stage": "height=40 is not a multiple of 32; use 32 or 64",
    "height=1600000000": "use a smaller clip",
}
TIMES = {
    "fps=0": "fps=0 is not in [1, 1000]; use for example 12",
    "fps=-24": "fps=-24 is not in [1, 1000]",
    "fps=nan": "fps=nan is not in [1, 1000]",
    "fps=inf": "fps=inf is not in [1, 1000]",
    "fps=1e-300": "fps=1e-300 is not in [1, 1000]",
    "fps=1000": "frames=5 at fps=1000 last 0.0050 s, too short for any sound; use fps=249 or less",
    "fps=60 frames=1": "frames=1 at fps=60 last 0.0167 s, too short for any sound; use fps=49",
}
SEEDS = {
    "seed=-1": "seed=-1 is not in 0 to 4294967295; seed=4294967295 has the same noise",
    "seed=4294967306": "seed=10 has the same noise",
    "noise=hots": "noise=hots is unknown; did you mean 'host'?; use host or device",
    "checks=stric": "checks=stric is unknown; did you mean 'strict'?; use off, warn, strict or",
}
SCHEDULES = {
    "scheduler.steps=0": "scheduler.steps=0 is not in 1 to 1000; use for example 30",
    "scheduler.steps=-3": "scheduler.steps=-3 is not in 1 to 1000",
    "scheduler.steps=1000000000": "scheduler.steps=1000000000 is not in 1 to 1000",
    "scheduler.tokens=0": "scheduler.tokens=0 is not auto or a positive number",
    "scheduler.tokens=99999999999": "use scheduler.tokens=4096 or fewer steps",
    "scheduler.max_shift=nan": "scheduler.max_shift=nan is not in [-20, 20]",
    "scheduler.terminal=0": "scheduler.terminal=0 is not between 0 and 1; 0.1 is usual",
    "scheduler.kind=lts2": "scheduler.kind=lts2 is unknown; did you mean 'ltx2'?; use ltx2,",
    "scheduler.sigmas=[]": "sigmas=[] must hold at least two values and end with 0",
    "scheduler.sigmas=[1,0.5]": "sigmas=[1, 0.5] must hold at least two values and end with 0",
    "scheduler.sigmas=[1.5,0]": "sigmas=[1.5, 0] starts at 1.5; start in (0, 1]",
    "scheduler.sigmas=[1,nan,0]": "must strictly decrease, but value 2 (nan) follows 1",
    "scheduler.sigmas=[1,-0.5,0]": "must strictly decrease, but value 3 (0) follows -0.5",
    "scheduler.sigmas=[true,0]": "is not a list of numbers such as [1.0,0.5,0.0]",
}
SAMPLERS = {
    "sampler.kind=eular": "sampler.kind=eular is unknown; did you mean 'euler'?; use euler,",
    "sampler=euler_ancestral sampler.eta=-1": "sampler.eta=-1 is not in [0, 1]",
    "sampler=res_2s sampler.eta=nan": "sampler.eta=nan is not in [0, 1]",
    "sampler=cfg_pp sampler.s_noise=inf": "sampler.s_noise=inf is not in [0, 10]",
    "sampler=cfg_pp": "stage 'base' has no unconditional estimate at step 0; use guidance=cfg",
    "sampler=cfg_pp guidance=cfg scheduler.steps=2 guidance.audio.skip_step=1": "no unconditional"
    " estimate at step 1",
}
GUIDANCE = {
    "guidance=cfg guidance.video.cfg=nan": "guidance.video.cfg=nan is not a number; 1 is off",
    "guidance=cfg guidance.video.rescale=1.5": "guidance.video.rescale=1.5 is not in [0, 1]",
    "guidance=cfg guidance.audio.skip_step=-1": "guidance.audio.skip_step=-1 is negative",
    "guidance=multimodal guidance.video.stg=1": "guidance.video.stg=1.0 needs stg_blocks",
    "guidance=multimodal guidance.video.stg=1 guidance.video.stg_blocks=[4]": "block 4 does not"
    " exist; the transformer has blocks 0 to 3",
    "guidance=multimodal guidance.video.stg=1 guidance.video.stg_blocks=[-1]": "block -1 does not",
    "guidance=cfg guidance.max_batch=-1": "guidance.max_batch=-1 is not auto or a number",
    "guidance.video.cfg=3": "guidance.video.cfg has no effect: guidance=none does not use it",
}
MODEL_KINDS = {
    "model.kind=destilled": "model.kind=destilled is unknown; did you mean 'distilled'?; use dev,",
    "model.kind=distilled": "is distilled and cannot follow scheduler=ltx2; use",
    "model.kind=distilled scheduler=distilled guidance=cfg": "use guidance=none",
    "model.kind=dev scheduler=distilled": "cannot follow the distilled list; use scheduler=ltx2",
    "model=distilled scheduler=ltx2": "cannot follow scheduler=ltx2; use scheduler=distilled",
    "model=dev pipeline=distilled": "cannot follow the distilled list; use scheduler=ltx2",
}
MACHINES = {
    "dtype.default=half": "dtype=half is not one of auto, fp32, bf16, fp16",
    "dtype.video_vae=half": "dtype.video_vae=half is not one of auto, fp32, bf16, fp16",
    "dtype.upsampler=fp32": "dtype.upsampler has no effect: pipeline=one_stage upscales nothing",
    "backend._target_=os.system": "only classes below 'ltx2.' are built",
}
ON_TORCH_CPU = {
    "backend.device=tpu": "backend.device=tpu is not available here; use one of auto, cpu",
    "backend.attention=fast": "backend.attention=fast is unknown; use one of auto, sdpa, chunked",
    "backend.attention=sage": "needs the package 'sageattention', which is not installed",
    "backend.device=cpu dtype=fp16": "dtype=fp16 does not work on a CPU; use fp32 or bf16",
    "backend.device=cpu dtype.transformer=fp16": "dtype.transformer=fp16 does not work on a CPU",
}
OUTPUTS = {
    "output.format=avi": "output.format=avi is unknown; use mp4, webm, gif, png, exr or hevc_hlg",
    "output.crf=52": "output.crf=52 is not in 0 to 51 for mp4; smaller is better",
    "output.crf=-1": "output.crf=-1 is not in 0 to 51 for mp4",
    "output=webm output.crf=64": "output.crf=64 is not in 0 to 63 for webm",
    "output.preset=warp": "output.preset=warp is unknown; use ultrafast,",
    "pipeline=text_to_audio height=64": "height has no effect: pipeline=text_to_audio makes no",
    "pipeline=text_to_audio output=gif": "output has no effect: pipeline=text_to_audio makes no",
}
TILES = {
    "tiling.mode=sze": "tiling.mode=sze is unknown; did you mean 'size'?; use off, auto, size",
    "tiling=spatial tiling.height=16": "tile_size=16 is not a multiple of 16 from 32 on; use 32",
    "tiling=spatial tiling.height=-32": "tile_size=-32 is not a multiple of 16 from 32 on; use 32",
    "tiling=spatial tiling.height=1 tiling.width=1 tiling.height_overlap=1": "tile_size=1 is not",
    "tiling=spatial tiling.height=32 tiling.height_overlap=32": "below tile_size=32; use 16",
    "denoise_tiles.height=0": "denoise_tiles.height=0 is not positive; use 1 (whole) or 2",
    "denoise_tiles.height=99": "is more than the 4 latent rows of stage 'base'; use 1 to 4",
}
CLIP = "input.video=package:pocket/examples/clip.mp4"
IDLE = {
    f"pipeline=extend {CLIP} input.audio=a.wav": "input.audio has no effect",
    f"pipeline=extend {CLIP} input.audio_start=0.2": "input.audio_start has no effect",
    f"pipeline=inpaint {CLIP} input.overlap=5": "input.overlap has no effect: pipeline=inpaint",
    f"pipeline=inpaint {CLIP} input.side=before": "input.side has no effect",
    f"pipeline=inpaint {CLIP} input.regenerate=[video]": "input.regenerate has no effect",
    f"pipeline=retake {CLIP} input.frozen_noise=true": "input.frozen_noise has no effect",
    f"pipeline=video_to_audio {CLIP} input.audio_start=0.3": "input.audio_start has no effect",
    "window.frames=9": "window.frames has no effect: pipeline=one_stage has no windows",
    "enhance.temperature=0.3": "enhance.temperature has no effect: enhance.enabled is false",
}
TABLE = (
    SIZES
    | TIMES
    | SEEDS
    | SCHEDULES
    | SAMPLERS
    | GUIDANCE
    | MODEL_KINDS
    | MACHINES
    | OUTPUTS
    | TILES
    | IDLE
)


@pytest.mark.parametrize(("arguments", "told"), TABLE.items(), ids=list(TABLE))
def test_a_value_that_cannot_be_used_is_refused(arguments, told, tmp_path, capsys):
    given = arguments.split()
    small = not any(text.startswith("pipeline=text") for text in given)
    assert told in CommandLine(tmp_path, capsys).refused(*given, small=small)


@pytest.mark.skipif("torch" not in installed(), reason="needs torch")
@pytest.mark.parametrize(("arguments", "told"), ON_TORCH_CPU.items(), ids=list(ON_TORCH_CPU))
def test_what_this_backend_cannot_do_is_refused(arguments, told, tmp_path, capsys):
    assert told in CommandLine(tmp_path, capsys).refused("backend=torch", *arguments.split())


def test_snapping_takes_the_nearest_size_with_a_notice(tmp_path, capsys):
    line = CommandLine(tmp_path, capsys)
    code, told = line.run("snap=true", "height=63", "width=72", "frames=7")
    assert code == 0
    assert "height=63 is not a multiple of 16: snapped to 64" in told
    assert "width=72 is not a multiple of 16: snapped to 64" in told
    assert "frames=7 is not 4k + 1: snapped to 5" in told
