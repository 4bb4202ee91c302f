"""Clips of light as input.video: folders of EXR frames and HLG clips in HDR runs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import generate
from ltx2.media.encoders import EncodeOptions
from ltx2.media.exr import exr_frames, read_codes, write_exr
from ltx2.media.hdr import acescct
from ltx2.media.video import VideoWriter
from ltx2.pipelines.clips import input_metadata, iterate_input, sound_path
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.sources import input_frames
from ltx2.weights.dtype_policy import COMPONENTS

pytest.importorskip("OpenEXR")
SPACE, RATE = "input.colour_space=acescg", "fps=24"
SHOWN = ("pipeline=video_to_audio", "scheduler.steps=1", "guidance=none", "checks=off")


def frames_in(folder, count=9, height=64, width=64, name="frame_{:05d}"):
    """EXR frames of linear light 0, 1, 2, ..."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        pixels = np.full((height, width, 3), index, np.float32)
        write_exr(folder / f"{name.format(index)}.exr", pixels, "acescg")
    return folder


def planned(folder, *more, output=("output=exr", "output.colour_space=acescg")):
    return make_plan(compose([*SHOWN, f"input.video={folder}", *output, *more]))


def test_the_frames_of_a_folder_are_the_clip_of_the_run(tmp_path):
    folder = frames_in(tmp_path / "light", height=96, width=128)
    plan = planned(folder, SPACE, RATE, "height=64", "width=64")
    assert (plan.frames, plan.fps) == (9, 24) and sound_path(plan.settings) == ""
    clip = input_metadata(plan.settings)
    assert (clip.frames, clip.height, clip.width, clip.fps) == (9, 96, 128, 24)
    shown = np.concatenate(list(input_frames(plan)))
    assert shown.shape == (9, 64, 64, 3) and shown.dtype == np.float32
    np.testing.assert_allclose(shown[:, 5, 7, 1], acescct(np.arange(9.0)), atol=1e-4)


def test_frames_are_ordered_by_their_numbers(tmp_path):
    folder = frames_in(tmp_path / "light", count=12, name="shot.{}")
    assert [file.stem for file in exr_frames(folder)] == [f"shot.{i}" for i in range(12)]
    codes = read_codes(folder, "acescg")
    np.testing.assert_allclose(codes[:, 0, 0, 0], acescct(np.arange(12.0)), atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        ({}, [RATE], "input.colour_space is empty: EXR files do not tell it"),
        ({}, [RATE, "input.colour_space=rec709"], "input.colour_space=rec709 is unknown"),
        ({}, [SPACE], "EXR frames do not tell their rate; set fps=24"),
        ({"gap": 4}, [SPACE, RATE], "frame_00003.exr and frame_00005.exr do not follow each other"),
        ({"size": 2}, [SPACE, RATE], r"frame_00002.exr is 32 x 64 px, frame_00000.exr 64 x 64"),
        ({"other": "b_00000"}, [SPACE, RATE], r"frames of several clips \('b_...', 'frame_...'\)"),
        ({"other": "frame_0"}, [SPACE, RATE], "frame_00000.exr are one frame twice"),
        ({"torn": 0}, [SPACE, RATE], "frame_00000.exr cannot be read as an EXR picture"),
        ({"count": 0}, [SPACE, RATE], "holds no EXR frame; name a folder of EXR files"),
    ],
)
def test_folders_that_are_no_clip_are_refused_in_one_line(tmp_path, spoil, more, message):
    folder = frames_in(tmp_path / "light", count=spoil.get("count", 9))
    if "gap" in spoil:
        (folder / "frame_00004.exr").unlink()
    if "size" in spoil:
        write_exr(folder / "frame_00002.exr", np.ones((32, 64, 3), np.float32), "acescg")
    if "other" in spoil:
        write_exr(folder / f"{spoil['other']}.exr", np.ones((64, 64, 3), np.float32), "acescg")
    if "torn" in spoil:
        (folder / "frame_00000.exr").write_bytes(b"v/1\x01 torn")
    with pytest.raises(UserError, match=message) as error:
        planned(folder, *more)
    assert "\n" not in str(error.value)


def sdr(path):
    with VideoWriter(path, 24) as writer:
        writer.write(np.full((9, 64, 64, 3), 0.5, np.float32))
    return path


def test_light_and_eight_bits_do_not_mix(tmp_path):
    folder, clip = frames_in(tmp_path / "light"), sdr(tmp_path / "sdr.mp4")
    with pytest.raises(UserError, match=r"is HDR; use output=exr or output=hevc_hlg"):
        planned(folder, SPACE, RATE, output=["output=mp4"])
    with pytest.raises(UserError, match=r"sdr.mp4 is SDR; output=exr takes folders of EXR frames"):
        planned(clip)
    with pytest.raises(UserError, match=r"colour_space=acescg has no effect on .*sdr.mp4"):
        planned(clip, SPACE, output=["output=mp4"])
    with pytest.raises(UserError, match=r"pipeline=dub reads input\.video as a reference"):
        planned(folder, SPACE, RATE, "pipeline=dub")


def test_the_key_of_the_clip_holds_its_colour_space(tmp_path):
    folder = frames_in(tmp_path / "light")

    def key(space):
        plan = planned(folder, f"input.colour_space={space}", RATE)
        name = next(s.name for s in plan.stages if s.settings.do == "encode")
        return Keys(plan, {}, dict.fromkeys(COMPONENTS, "fp32")).latents(name)

    assert key("acescg") != key("srgb_linear")


def test_an_hlg_clip_is_read_as_codes(tmp_path):
    path = tmp_path / "hlg.mp4"
    with VideoWriter(path, 24, EncodeOptions(hdr="hevc_hlg", crf=4)) as out:
        out.write(np.full((9, 64, 64, 3), acescct(np.array(2.0)), np.float32))
    plan = planned(path)
    assert (plan.frames, plan.fps) == (9, 24)
    frames = np.stack(list(iterate_input(plan.settings)))
    np.testing.assert_allclose(frames, acescct(np.array(2.0)), atol=0.02)


def test_a_run_hands_on_the_light_it_was_given(tmp_path):
    # Sound is made for the pictures, which are written again: half floats of the same light.
    folder = frames_in(tmp_path / "light")
    plan = planned(folder, SPACE, RATE)
    clip = generate(plan.settings, partial(make_backend, "torch"), tmp_path / "run")
    light = read_codes(clip, "acescg")
    np.testing.assert_allclose(light, read_codes(folder, "acescg"), atol=1e-3)
    assert (clip / "audio.wav").is_file()


def test_what_an_hdr_run_wrote_is_continued_by_another(tmp_path):
    folder = frames_in(tmp_path / "light")
    first = generate(
        planned(folder, SPACE, RATE).settings, partial(make_backend, "torch"), tmp_path / "first"
    )
    more = ["pipeline=extend", SPACE, RATE, "frames=9", "input.overlap=5", "scheduler.steps=1"]
    settings = planned(first, *more).settings
    assert sound_path(settings) == str(first / "audio.wav")
    longer = generate(settings, partial(make_backend, "torch"), tmp_path / "second")
    codes = read_codes(longer, "acescg")
    assert len(codes) == 13
    np.testing.assert_allclose(codes[:9], read_codes(folder, "acescg"), atol=1e-3)
