"""Pictures, clips, masks and sound that cannot be used: one line before a weight is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import f32, write_raw
from hostile_runs import CommandLine

from ltx2.media.images import write_png
from ltx2.media.video import VideoWriter

MEDIA = Path(__file__).parent / "golden" / "media"
CLIP, REFERENCE = MEDIA / "clip_av.avi", MEDIA / "reference.avi"
IMAGE, OTHER, SPEECH = MEDIA / "image_a.png", MEDIA / "image_b.png", MEDIA / "speech.wav"
PATHS = {"CLIP": CLIP, "REFERENCE": REFERENCE, "IMAGE": IMAGE, "SPEECH": SPEECH}


@pytest.fixture
def line(tmp_path, capsys) -> CommandLine:
    return CommandLine(tmp_path, capsys)


def clip(path: Path, frames: int, size: int = 64, fps: float = 24) -> Path:
    with VideoWriter(path, fps) as writer:
        writer.write(np.full((frames, size, size, 3), 0.5, np.float32))
    return path


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Bad pictures by name, in a folder of their own."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_png(folder / "pixel.png", np.zeros((1, 1, 3), np.uint8))
    (folder / "half.png").write_bytes(IMAGE.read_bytes()[:3000])
    (folder / "empty.png").write_bytes(b"")
    return {path.stem: path for path in folder.iterdir()} | {
        "absent": folder / "absent.png", "folder": folder, "clip": CLIP,
    }  # fmt: skip


PICTURES = {
    "absent": "does not exist; check the path",
    "folder": "is a folder; name one picture file",
    "pixel": "is 1x1 px; both sides must be at least 2 px",
    "half": "cannot be read as an image (image file is truncated)",
    "empty": "cannot be read as an image",
    "clip": "cannot be read as an image",
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_none_is_refused(name, files, line):
    told = line.refused("conditioning=image", f"conditioning.image.path={files[name]}")
    assert str(files[name]) in told and PICTURES[name] in told


CONDITIONS = {
    "strength=1.5": "conditioning.image.strength=1.5 is not in [0, 1]; 1 keeps the image",
    "strength=-0.1": "conditioning.image.strength=-0.1 is not in [0, 1]",
    "strength=nan": "conditioning.image.strength=nan is not in [0, 1]",
    "frame=5": "conditioning.image.frame=5 is outside the clip of 5 frames",
    "frame=-6": "conditioning.image.frame=-6 is outside the clip of 5 frames",
    "crf=52": "conditioning.image.crf=52 is not in [0, 51]; 0 switches it off",
    "attention=0.5": "attention and mask have no effect on kind=image",
    "kind=imag": "conditioning.image.kind=imag is unknown; did you mean 'image'?; use image,",
    "kind=video": "conditioning.image: pipeline=one_stage takes image, not kind=video",
}


@pytest.mark.parametrize("option", CONDITIONS)
def test_a_condition_out_of_range_is_refused(option, line):
    arguments = (f"conditioning.image.path={IMAGE}", f"conditioning.image.{option}")
    assert CONDITIONS[option] in line.refused("conditioning=image", *arguments)


def test_two_pictures_cannot_have_one_frame(line):
    told = line.refused(
        "conditioning=image", f"conditioning.image.path={IMAGE}",
        "+conditioning@conditioning.b=image", f"conditioning.b.path={OTHER}",
        "conditioning.b.frame=-5",
    )  # fmt: skip
    assert "conditioning.b.frame=-5 is already the frame of conditioning.image" in told


def test_a_pipeline_without_conditions_takes_none(line):
    retake = ("pipeline=retake", f"input.video={CLIP}", "input.start=0", "input.end=0.1")
    told = line.refused(*retake, "conditioning=image", f"conditioning.image.path={IMAGE}")
    assert "conditioning.image: pipeline=retake takes no condition, not kind=image" in told


REFERENCES = {
    "frame=1": "conditioning.reference.frame has no effect: a reference spans the clip; drop it",
    "crf=10": "conditioning.reference.crf has no effect: kind=reference is not re-compressed",
    "attention=1.5": "conditioning.reference.attention=1.5 is not in [0, 1]; 1 is full attention",
    "strength=2": "conditioning.reference.strength=2.0 is not in [0, 1]; 1 keeps the reference",
    "control=cany": "control=cany is unknown; did you mean 'canny'?",
    "path=/absent.mp4": "/absent.mp4 does not exist; check the path",
    "path={SPEECH}": "has no video stream; name a video file",
    "mask=/absent.png": "/absent.png does not exist; check the path",
    "mask={IMAGE}": "is 96x64 px, the pictures it masks 64x48; give both one shape",
}


@pytest.mark.parametrize("option", REFERENCES)
def test_a_reference_that_cannot_be_used_is_refused(option, line):
    arguments = [f"conditioning.reference.{option.format(**PATHS)}"]
    if not option.startswith("path="):
        arguments.append(f"conditioning.reference.path={REFERENCE}")
    draft = ("pipeline=ic_lora_draft", "frames=9", "conditioning=reference")
    assert REFERENCES[option] in line.refused(*draft, *arguments)


def test_a_short_reference_must_fill_its_latents(line, tmp_path):
    path = clip(tmp_path / "seven.mp4", 7)
    draft = ("pipeline=ic_lora_draft", "frames=9", "conditioning=reference")
    told = line.refused(*draft, f"conditioning.reference.path={path}")
    assert "has 7 frames, which is not 4k + 1; cut it to 5" in told


def test_loras_must_agree_on_the_size_of_references(line, tmp_path):
    arguments = []
    for name, factor in (("a", "2"), ("b", "3")):
        layer = "diffusion_model.transformer_blocks.0.attn1.to_q.lora"
        raw = {f"{layer}_A.weight": f32(np.zeros((2, 128))),
               f"{layer}_B.weight": f32(np.zeros((128, 2)))}  # fmt: skip
        metadata = {"reference_downscale_factor": factor}
        path = write_raw(tmp_path / f"{name}.safetensors", raw, metadata)
        arguments.append(f"+lora.{name}.file={path}")
    reference = ("conditioning=reference", f"conditioning.reference.path={REFERENCE}")
    draft = ("pipeline=ic_lora_draft", "frames=9", *reference)
    assert "a.safetensors has 2, b.safetensors has 3" in line.refused(*draft, *arguments)
    told = line.refused(*draft, arguments[1])
    assert "stage 'base' has 64 px, but the LoRA's references are 3 times smaller" in told


RETAKE = {
    "": "a retake needs input.start and input.end in seconds",
    "input.start=0": "a retake needs input.start and input.end in seconds",
    "input.start=-1 input.end=0.1": "input.start=-1.0 must be at least 0 and before end=0.1",
    "input.start=0.2 input.end=nan": "input.start=0.2 must be at least 0 and before end=nan",
    "input.start=5 input.end=6": "input.start=5.0 is behind the clip's end (0.708 s)",
    "input.start=0 input.end=inf": "input.end=inf is behind the clip's end (0.708 s)",
    "input.start=0 input.end=0.5 input.regenerate=[]": "input.regenerate=[]: use video, audio or",
    "input.start=0 input.end=0.5 frames=401": "frames=401 is more than the 17 frames of",
    "input.start=0 input.end=0.5 frames=16": "frames=16 is not 4k + 1; use 13 or 17, or snap=true",
    "input.start=0 input.end=0.5 fps=12": "fps=12 is not the rate of",
    "input.start=0 input.end=0.5 input.mask=m.png": "input.mask has no effect on pipeline=retake",
}


@pytest.mark.parametrize("options", RETAKE)
def test_a_retake_must_lie_inside_its_clip(options, line):
    given = options.split()
    if not any(text.startswith("frames") for text in given):
        given.append("frames=17")
    told = line.refused("pipeline=retake", f"input.video={CLIP}", *given)
    assert RETAKE[options] in told


def test_a_clip_off_the_grid_names_what_it_can_be_cut_to(line, tmp_path):
    path = clip(tmp_path / "seven.mp4", 7)
    retake = ("pipeline=retake", f"input.video={path}", "input.start=0", "input.end=0.1")
    told = line.refused(*retake, small=False)
    assert "frames=7 is not 4k + 1; use 5, or snap=true to round" in told
    code, told = line.run(*retake, "snap=true", "scheduler.steps=1", "guidance=none", small=False)
    assert code == 0 and "frames=7 is not 4k + 1: snapped to 5" in told


CLIPS = {
    "retake": "pipeline=retake starts from a clip; set input.video=FILE",
    "retake input.video=/absent.mp4": "/absent.mp4 does not exist; check the path",
    "retake input.video={SPEECH}": "has no video stream; name a video file",
    "retake input.video=/etc/passwd": "cannot be read as video or audio",
    "retake input.video={IMAGE}": "frames=5 is more than the 1 frames of",
    "inpaint input.video={CLIP}": "an inpainting needs input.mask=FILE",
    "inpaint input.video={CLIP} input.mask=/absent.png": "/absent.png does not exist",
    "inpaint input.video={CLIP} input.mask={IMAGE}": "is 96x64 px, the pictures it masks 64x64",
    "inpaint input.video={CLIP} frames=17 input.mask={REFERENCE}": "has 9 frames, the clip 17",
    "audio_to_video": "pipeline=audio_to_video starts from sound; set input.audio=FILE",
    "audio_to_video input.audio={REFERENCE}": "has no audio stream; pipeline=audio_to_video needs",
    "audio_to_video input.audio={SPEECH} input.audio_start=99": "holds no sound at 99.0 s; start",
    "audio_to_video input.audio={SPEECH} input.audio_start=-1": "input.audio_start=-1.0 is not a",
    "audio_to_video input.audio={SPEECH} input.audio_start=nan": "input.audio_start=nan is not a",
    "video_to_audio input.video={CLIP} input.audio={SPEECH}": "input.audio has no effect",
    "one_stage input.video={CLIP}": "pipeline=one_stage starts from nothing but the prompt",
    "extend input.video={CLIP} input.overlap=99": "input.overlap=99 is not 4k + 1 up to",
}


@pytest.mark.parametrize("options", CLIPS)
def test_input_media_must_be_there_and_have_an_effect(options, line):
    assert CLIPS[options] in line.refused(*f"pipeline={options.format(**PATHS)}".split())
