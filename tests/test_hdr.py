"""HDR: colour arithmetic, EXR folders and HLG clips, and runs that take and write them."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.run import component_dtypes, generate
from ltx2.media.encoders import EncodeOptions
from ltx2.media.hdr import (
    acescct,
    codes_from,
    codes_from_hlg,
    hlg_signal,
    linear_of,
    pixels_in,
    rgb_of_levels,
    shown,
    yuv420p10,
)
from ltx2.media.images import write_png
from ltx2.media.video import VideoWriter, read_metadata
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.planning import make_plan
from ltx2.weights.dtype_policy import COMPONENTS

OpenEXR = pytest.importorskip("OpenEXR")
SMALL = ("frames=5", "height=64", "width=64", "pipeline=one_stage", "scheduler.steps=2")
SMALL += ("checks=off", "guidance=none")


def test_working_codes_are_acescct():
    # Middle gray, diffuse white and the code of black, as the ACES specification tabulates them.
    codes = acescct(np.array([0.18, 1.0, 0.0, -1.0, 1e9]))
    np.testing.assert_allclose(codes, [0.4135884, 0.5547945, 0.0729055, 0, 1], atol=1e-6)


@pytest.mark.parametrize("space", ["srgb_linear", "acescg", "acescct"])
def test_pixels_survive_the_way_through_working_codes(space):
    light = np.random.default_rng(0).uniform(0.05, 0.9, (4, 5, 3)).astype(np.float32)
    if space != "acescct":
        light *= 8
    np.testing.assert_allclose(pixels_in(codes_from(light, space), space), light, rtol=2e-4)


def test_white_is_white_in_every_space():
    white = np.ones((1, 3), np.float32)
    codes = codes_from(white, "srgb_linear")
    np.testing.assert_allclose(codes, codes_from(white, "acescg"), atol=1e-5)
    np.testing.assert_allclose(linear_of(codes), 1, atol=1e-4)
    np.testing.assert_allclose(shown(codes), 1, atol=1e-4)


def test_diffuse_white_lies_at_three_quarters_of_the_hlg_signal():
    light = np.array([1.0, 0.0, 4.0])[:, None].repeat(3, axis=1)
    signal = hlg_signal(codes_from(light, "srgb_linear"))
    np.testing.assert_allclose(signal[:2], [[0.75] * 3, [0] * 3], atol=2e-4)
    # Brighter than white by hand: 1 - (1 - w) exp(-k (x - 1)), w the light at signal 0.75.
    w = (np.exp((0.75 - 0.55991073) / 0.17883277) + 0.28466892) / 12
    soft = 1 - (1 - w) * np.exp(-w / (1 - w) * 3)
    expected = 0.17883277 * np.log(12 * soft - 0.28466892) + 0.55991073
    np.testing.assert_allclose(signal[2], expected, atol=2e-4)


def test_a_signal_comes_back_as_the_codes_it_was_made_of():
    codes = codes_from(np.random.default_rng(1).uniform(0, 6, (50, 3)), "srgb_linear")
    np.testing.assert_allclose(codes_from_hlg(hlg_signal(codes)), codes, atol=2e-4)


def test_levels_are_limited_range_bt2020():
    planes = yuv420p10(np.full((2, 2, 3), 0.75))
    assert planes.tolist() == [[721, 721], [721, 721], [512, 512]]
    red = yuv420p10(np.broadcast_to([1.0, 0.0, 0.0], (2, 2, 3)))
    # By hand: 64 + 876 * 0.2627, 512 - 896 * 0.2627 / 1.8814, 512 + 896 * 0.7373 / 1.4746.
    assert red[0, 0] == 294 and red[2].tolist() == [387, 960]
    np.testing.assert_allclose(rgb_of_levels(294.0, 387.0, 960.0), [1, 0, 0], atol=2e-3)


def codes_clip(frames=5, height=48, width=64):
    """Smooth working codes (F, H, W, 3) up to about eight times white."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = np.stack([rows * 8, columns * 2, 0.5 + 0 * rows], axis=-1)
    return codes_from(np.stack([light * (1 - i / 20) for i in range(frames)]), "srgb_linear")


def test_a_folder_of_exr_files_holds_half_floats_in_its_colour_space(tmp_path):
    from ltx2.media.exr import read_codes

    clip = codes_clip()
    options = EncodeOptions(hdr="exr", colour_space="srgb_linear")
    with VideoWriter(tmp_path / "clip_exr", 24, options, comment="a run", audio_rate=48000) as out:
        out.write(clip)
        out.add_audio(np.zeros((2, 10000), np.float32))
    names = sorted(file.name for file in (tmp_path / "clip_exr").iterdir())
    assert names == ["audio.wav", *(f"frame_{i:05d}.exr" for i in range(5))]
    with OpenEXR.File(str(tmp_path / "clip_exr/frame_00000.exr")) as file:
        header, pixels = dict(file.header()), file.channels()["RGB"].pixels
    assert pixels.dtype == np.float16 and pixels.max() > 7.9
    assert header["colorSpace"] == "srgb_linear" and header["comments"] == "a run"
    np.testing.assert_allclose(header["chromaticities"][:2], (0.64, 0.33), atol=1e-6)
    np.testing.assert_allclose(read_codes(tmp_path / "clip_exr", "srgb_linear"), clip, atol=3e-4)


def test_an_hlg_clip_is_tagged_and_reads_back(tmp_path):
    import av

    from ltx2.media.hlg import is_hlg, read_hlg

    clip, path = codes_clip(), tmp_path / "clip.mp4"
    with VideoWriter(path, 24, EncodeOptions(hdr="hevc_hlg", crf=4), audio_rate=48000) as out:
        out.write(clip)
        out.add_audio(np.zeros((2, 10000), np.float32))
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        told = (codec.name, codec.profile, codec.pix_fmt, codec.codec_tag)
        assert told == ("hevc", "Main 10", "yuv420p10le", "hvc1")
        tags = (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)
        assert tags == (9, 18, 9, 1)
        assert container.streams.audio[0].codec_context.name == "aac"
    assert is_hlg(path)
    assert np.abs(read_hlg(path)[:, 2:-2, 2:-2] - clip[:, 2:-2, 2:-2]).mean() < 0.01
    assert len(read_hlg(path, 3)) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip.gif", EncodeOptions(hdr="hevc_hlg"), "'.gif' cannot hold hevc_hlg; use .mp4"),
        ("clip.exr", EncodeOptions(hdr="exr", colour_space="acescg"), "use a folder's name"),
        ("clip", EncodeOptions(hdr="exr"), "colour_space is empty"),
        ("clip", EncodeOptions(hdr="exr", colour_space="acesg"), "did you mean 'acescg'"),
        ("clip", EncodeOptions(hdr="exr", colour_space="acescg", crf=3), "no crf or preset"),
    ],
)
def test_targets_that_cannot_hold_light_are_refused(tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        VideoWriter(tmp_path / name, 24, options)


def exr(path, value=2.0, channels="RGB", height=48, width=64):
    """A picture of one linear colour, brighter than white."""
    planes = np.full((height, width), value, np.float32)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, dict.fromkeys(channels, planes)) as file:
        file.write(str(path))
    return str(path)


def test_pictures_that_are_no_exr_are_refused_in_one_line(tmp_path):
    from ltx2.media.exr import read_exr

    (tmp_path / "torn.exr").write_bytes(b"v/1\x01 torn")
    with pytest.raises(UserError, match=r"torn\.exr cannot be read as an EXR picture"):
        read_exr(tmp_path / "torn.exr")
    with pytest.raises(UserError, match="has no channel R; its channels: Y"):
        read_exr(exr(tmp_path / "gray.exr", channels="Y"))
    with pytest.raises(UserError, match="holds NaN or infinity"):
        read_exr(exr(tmp_path / "nan.exr", value=np.nan))
    with pytest.raises(UserError, match="does not exist"):
        read_exr(tmp_path / "absent.exr")


def test_an_exr_run_takes_and_leaves_light(tmp_path):
    from ltx2.media.exr import read_exr

    given = exr(tmp_path / "still.exr")
    image = ["conditioning=image", f"conditioning.image.path={given}"]
    image.append("conditioning.image.colour_space=acescg")
    settings = compose(["output=exr", *image, *SMALL])
    folder = tmp_path / "run"
    path = generate(settings, partial(make_backend, "torch"), folder)
    assert path == folder / "video_exr"
    frames = sorted(path.glob("*.exr"))
    assert len(frames) == 5 and (path / "audio.wav").exists() and (folder / "frames.png").exists()
    pixels = np.stack([read_exr(frame) for frame in frames])
    assert pixels.shape == (5, 64, 64, 3) and pixels.min() >= 0 and pixels.max() > 1
    record = json.loads((folder / "run.json").read_text())
    assert record["dtypes"]["video_vae"] == "fp32" and record["status"] == "completed"


def test_an_hlg_run_writes_a_tagged_clip_with_its_record(tmp_path):
    from ltx2.media.hlg import is_hlg
    from ltx2.media.video import read_comment

    settings = compose(["output=hevc_hlg", *SMALL])
    path = generate(settings, partial(make_backend, "torch"), tmp_path)
    assert path.name == "video.mp4" and is_hlg(path)
    assert read_metadata(path).frames == 5 and read_metadata(path).audio_rate
    assert json.loads(read_comment(path))["status"] == "completed"


def test_hdr_clips_are_taken_as_conditions(tmp_path):
    from ltx2.pipelines.hdr import prepared_codes
    from ltx2.pipelines.settings import ConditioningSettings

    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(5):
        exr(folder / f"{index}.exr", value=index)
    item = ConditioningSettings(kind="video", path=str(folder), colour_space="acescg")
    pixels = prepared_codes(item, 32, 32, 3)
    assert pixels.shape == (1, 3, 32, 32, 3)
    expected = acescct(np.arange(3.0)) * 2 - 1
    np.testing.assert_allclose(pixels[0, :, 16, 16, 0], expected, atol=1e-5)
    with VideoWriter(tmp_path / "hlg.mp4", 24, EncodeOptions(hdr="hevc_hlg", crf=4)) as out:
        out.write(np.repeat(codes_from(np.full((1, 32, 64, 3), 2.0), "acescg"), 5, axis=0))
    item = ConditioningSettings(kind="video", path=str(tmp_path / "hlg.mp4"))
    pixels = prepared_codes(item, 32, 32)
    np.testing.assert_allclose(pixels, acescct(np.array(2.0)) * 2 - 1, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["output=exr", "{exr}"], "image.colour_space is empty: EXR files do not tell it"),
        (["output=mp4", "{exr}", "{space}"], "is HDR; use output=exr or output=hevc_hlg"),
        (["output=exr", "{png}"], "is SDR; output=exr takes EXR pictures"),
        (["output=exr", "{png}", "{space}"], "colour_space has no effect on .*png"),
        (["output=hevc_hlg", "{folder}", "{space}"], "is a folder; name one picture file"),
        (["output=exr", "output.colour_space=rec709"], "output.colour_space=rec709 is unknown"),
        (["output=mp4", "output.colour_space=acescg"], "has no effect on output=mp4"),
        (["output=hevc_hlg", "width=32"], "at least 64 px wide, not 32"),
        (["output=hevc_hlg", "output.crf=60"], "crf=60 is not in 0 to 51 for hevc_hlg"),
    ],
)
def test_what_no_hdr_run_can_do_is_refused_in_one_line(tmp_path, options, message):
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    image = "conditioning.image.path="
    names = {
        "{exr}": image + exr(tmp_path / "a.exr"),
        "{png}": f"{image}{tmp_path}/a.png",
        "{folder}": f"{image}{tmp_path}/empty",
        "{space}": "conditioning.image.colour_space=acescg",
    }
    given = [names.get(option, option) for option in options]
    if any(option.startswith("conditioning") for option in given):
        given.insert(0, "conditioning=image")
    with pytest.raises(UserError, match=message) as error:
        make_plan(compose([*SMALL, *given]))
    assert "\n" not in str(error.value)


def test_the_colour_space_of_a_condition_is_part_of_the_key(tmp_path):
    given = [
        "output=exr",
        "conditioning=image",
        f"conditioning.image.path={exr(tmp_path / 'a.exr')}",
    ]

    def key(space, *more):
        plan = make_plan(
            compose([*given, f"conditioning.image.colour_space={space}", *more, *SMALL])
        )
        return Keys(plan, {}, dict.fromkeys(COMPONENTS, "fp32")).latents("base")

    assert key("acescg") != key("srgb_linear")
    assert key("acescg") == key("acescg", "output.colour_space=acescct")


def test_an_hdr_clip_is_decoded_in_single_precision():
    backend = make_backend("torch")
    dtypes = component_dtypes(compose(["output=exr", "dtype=bf16"]), backend)
    assert (dtypes["video_vae"], dtypes["transformer"]) == ("fp32", "bf16")
    assert component_dtypes(compose(["dtype=bf16"]), backend)["video_vae"] == "bf16"
