"""Clips written chunk by chunk and read back: colours, times, tags, and what failure leaves."""

import errno
import gc
import json
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest

from ltx2.errors import MissingFile, UserError
from ltx2.media.atomic import replacing
from ltx2.media.audio import read_audio
from ltx2.media.video import (
    EncodeOptions,
    VideoWriter,
    check_target,
    check_writable,
    exact_rate,
    iterate_frames,
    read_comment,
    read_metadata,
    read_video,
)

COMMENT = json.dumps({"prompt": "\"quotes\" 'n' \\ ; # = \n\t ü 漢 😀 " * 600}, ensure_ascii=False)
BLACK = np.zeros((8, 32, 48, 3), np.uint8)


def write(path, chunks=(BLACK,), fps=24, **kwargs):
    with VideoWriter(path, fps, **kwargs) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return path


@pytest.mark.parametrize(
    "colour",
    [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (64, 128, 192)],
)
def test_solid_colours_survive_within_two_levels(tmp_path, colour):
    frames = np.broadcast_to(np.array(colour, np.float32) / 255, (5, 64, 64, 3))
    got, _ = read_video(write(tmp_path / "a.mp4", [frames]))
    assert np.abs(got.astype(int) - colour).max() <= 2


def test_mp4_is_tagged_bt709_limited_and_starts_fast(tmp_path):
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        tags = (
            codec.colorspace,
            codec.color_primaries,
            codec.color_trc,
            codec.color_range,
        )
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert tags == (1, 1, 1, 1)
    stored = path.read_bytes()
    assert 0 < stored.index(b"moov") < stored.index(b"mdat")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_frames_arrive_in_order_with_rate_comment_and_sound(tmp_path, suffix):
    levels = np.arange(20, dtype=np.float32) / 20
    frames = np.broadcast_to(levels[:, None, None, None], (20, 32, 48, 3))
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, 23.976, comment=COMMENT, audio_rate=24000) as writer:
        writer.write(frames[:9])
        writer.write(frames[9:])
        writer.add_audio(np.zeros((2, 100), np.float32))
    got, fps = read_video(path)
    assert fps == Fraction(24000, 1001)
    np.testing.assert_allclose(got[:, 16, 24].mean(-1), levels * 255, atol=4)
    assert read_comment(path) == COMMENT and len(COMMENT.encode()) > 20_000
    meta = read_metadata(path)
    assert (meta.frames, meta.height, meta.width) == (20, 32, 48)
    assert meta.audio_rate in (24000, 48000)


@pytest.mark.parametrize("samples", [1000, 24000, 60000])
def test_sound_is_cut_or_padded_to_the_length_of_the_video(tmp_path, samples):
    with VideoWriter(tmp_path / "a.mp4", 24, audio_rate=24000) as writer:
        writer.add_audio(np.full((2, samples), 0.5, np.float32))
        writer.write(np.zeros((36, 32, 48, 3), np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        seconds = {s.type: float(s.duration * s.time_base) for s in container.streams}
    assert seconds["video"] == 1.5
    assert seconds["audio"] == pytest.approx(1.5, abs=1e-3)
    waveform, _ = read_audio(tmp_path / "a.mp4")
    heard = np.flatnonzero(np.abs(waveform[0]) > 0.2)
    assert heard[-1] == pytest.approx(min(samples, 36000) - 1, abs=1024)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_sound_keeps_its_place_in_time(tmp_path, suffix):
    click = np.zeros((2, 24000), np.float32)
    click[:, 6000:6100] = np.hanning(100)
    with VideoWriter(tmp_path / f"a{suffix}", 24, audio_rate=24000) as writer:
        writer.write(np.zeros((24, 32, 48, 3), np.uint8))
        writer.add_audio(click)
    waveform, rate = read_audio(tmp_path / f"a{suffix}")
    assert np.abs(waveform[0]).argmax() / rate == pytest.approx(6050 / 24000, abs=1e-3)


def test_gif_keeps_frames_and_colours(tmp_path):
    red = np.zeros((3, 33, 47, 3), np.float32)
    red[..., 0] = 1
    got, _ = read_video(write(tmp_path / "a.gif", [red, red * 0.5], fps=10))
    assert got.shape == (6, 33, 47, 3)
    np.testing.assert_allclose(got[0], red[0] * 255, atol=8)
    np.testing.assert_allclose(got[-1], red[0] * 127, atol=8)


def test_png_folder_is_lossless_with_comment_and_wav(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "clip", 8, comment=COMMENT, audio_rate=16000) as writer:
        writer.write(frames)
        writer.add_audio(np.zeros((2, 9), np.float32))
    names = sorted(path.name for path in (tmp_path / "clip").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "audio.wav"]
    from ltx2.media.images import read_image

    np.testing.assert_array_equal(read_image(tmp_path / "clip" / "00002.png"), frames[2])
    assert read_comment(tmp_path / "clip") == COMMENT
    assert read_audio(tmp_path / "clip" / "audio.wav")[0].shape == (2, 6000)


@pytest.mark.slow
def test_chunks_are_released_while_streaming(tmp_path):
    given = []

    def chunks():
        for _ in range(100):
            gc.collect()
            alive = sum(ref() is not None for ref in given)
            assert alive <= 1, "the writer keeps earlier chunks"
            chunk = np.zeros((2, 16, 16, 3), np.float32)
            given.append(weakref.ref(chunk))
            yield chunk

    write(tmp_path / "a.mp4", chunks())
    assert read_metadata(tmp_path / "a.mp4").frames == 200


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path, name):
    if name == "a.mp4":
        (tmp_path / name).write_bytes(b"old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for failure in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(failure), VideoWriter(tmp_path / name, 24) as writer:
            writer.write(BLACK)
            raise failure
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mistakes_while_writing_are_explained_and_leave_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    nan = np.full((1, 4, 4, 3), np.nan, np.float32)
    for chunks, message in (
        ([], "no frame was given"), ([BLACK[:0]], "no frame was given"),
        ([BLACK, BLACK[:, :16]], "size changed"), ([nan], "NaN"),
        ([BLACK[:, :31]], "31x48 is odd.*use 30x48"), ([BLACK[0]], "not .f, height"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            write(path, chunks)
    with pytest.raises(UserError, match="add_audio was not called"):
        write(path, audio_rate=24000)
    assert not list(tmp_path.iterdir())


def test_waveforms_that_cannot_be_stored_are_refused(tmp_path):
    for waveform in (np.zeros((1, 9)), np.zeros((2, 0)), np.full((2, 9), np.inf)):
        with (
            pytest.raises(UserError, match="waveform"),
            VideoWriter(tmp_path / "a.mp4", 24, audio_rate=24000) as writer,
        ):
            writer.write(BLACK)
            writer.add_audio(waveform)
    with pytest.raises(UserError, match="resample to 48000 or 64000 Hz"):
        VideoWriter(tmp_path / "a.mp4", 24, audio_rate=50000)
    with pytest.raises(UserError, match="gif holds no sound"):
        VideoWriter(tmp_path / "a.gif", 24, audio_rate=24000)


def test_targets_are_checked_before_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for path, message in (
        ("a.avi", "'.avi' is no video format"), ("file/a.mp4", "cannot write to folder"),
        ("file", "is a file"), ("full", "exists already"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            check_target(tmp_path / path)
    assert check_writable(tmp_path / "new" / "deep").is_dir()
    for path, options, message in (
        ("a.gif", EncodeOptions(crf=3), "no crf"), ("a.mp4", EncodeOptions(crf=52), "0..51"),
        ("a.webm", EncodeOptions(preset="fast"), "no effect"),
        ("a.mp4", EncodeOptions(preset="quick"), "use one of ultrafast"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            check_target(tmp_path / path, options)


def test_full_disk_names_the_target_and_the_space_left(tmp_path):
    with (
        pytest.raises(UserError, match=r"disk full while writing .*a\.mp4: .* MiB were free"),
        replacing(tmp_path / "a.mp4") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_smaller_crf_gives_a_bigger_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    fine = write(tmp_path / "fine.mp4", [noise], options=EncodeOptions(crf=0))
    default = write(tmp_path / "default.mp4", [noise])
    coarse = write(tmp_path / "coarse.mp4", [noise], options=EncodeOptions(crf=40))
    assert fine.stat().st_size > default.stat().st_size > coarse.stat().st_size


@pytest.mark.parametrize(
    "fps, expected",
    [(24, (24, 1)), (23.976, (24000, 1001)), (23.98, (24000, 1001)), (29.97, (30000, 1001)),
     (59.94, (60000, 1001)), (12.5, (25, 2)), (Fraction(24000, 1001), (24000, 1001)),
     (24000 / 1001, (24000, 1001))],
)  # fmt: skip
def test_frame_rates_become_the_fractions_that_are_meant(fps, expected):
    assert exact_rate(fps) == Fraction(*expected)


@pytest.mark.parametrize("fps", [0, -24, float("nan"), float("inf"), 5000])
def test_impossible_frame_rates_are_refused(fps):
    with pytest.raises(UserError, match="is not in"):
        exact_rate(fps)


def test_windows_select_frames_by_time_and_count(golden):
    path = golden / "media" / "clip_av.avi"
    every, fps = read_video(path)
    assert every.shape == (17, 64, 64, 3) and fps == 24
    np.testing.assert_array_equal(read_video(path, start_seconds=0.25, end_seconds=0.5)[0],
                                  every[6:12])  # fmt: skip
    np.testing.assert_array_equal(read_video(path, max_frames=3)[0], every[:3])
    assert sum(1 for _ in iterate_frames(path)) == 17
    assert read_metadata(path).seconds == pytest.approx(17 / 24)


def test_sideways_phone_video_is_turned_upright(tmp_path):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16] = 255
    write(tmp_path / "a.mp4", [frames])
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / "b.mp4"), "w") as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    got, _ = read_video(tmp_path / "b.mp4")
    np.testing.assert_allclose(got, np.rot90(frames, 1, (1, 2)), atol=12)
    meta = read_metadata(tmp_path / "b.mp4")
    assert (meta.height, meta.width) == (64, 32)


def test_unreadable_clips_are_explained(tmp_path, golden):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 50)
    for path, message in (
        (tmp_path / "bad.mp4", "cannot be read"), (tmp_path, "is a folder"),
        (golden / "media" / "speech.wav", "no video stream"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_video(path)
    with pytest.raises(MissingFile, match="does not exist"):
        read_video(tmp_path / "absent.mp4")
    with pytest.raises(UserError, match=r"no frame between 9\.0 s and its end"):
        read_video(golden / "media" / "clip_av.avi", start_seconds=9.0)


def test_a_clip_without_comment_has_none(golden):
    assert read_comment(golden / "media" / "reference.avi") is None


def test_importing_the_media_layer_loads_neither_pyav_nor_pillow():
    import subprocess
    import sys

    code = (
        "import sys, ltx2.media.video, ltx2.media.images, ltx2.media.contact;"
        "sys.exit(any(m in sys.modules for m in ('av', 'PIL', 'torch', 'mlx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("width", [64, 128, 208])
def test_equal_frames_become_equal_files(tmp_path, width):
    frames = np.linspace(0, 1, 17 * 64 * width * 3, dtype=np.float32).reshape(17, 64, width, 3)
    frames = np.abs(np.sin(40 * frames))
    held, contents = [], set()
    for attempt in range(6):
        held.append(np.random.default_rng(attempt).random((100 + 300 * attempt, 50)))
        path = tmp_path / f"{attempt}.mp4"
        with VideoWriter(path, 12) as writer:
            writer.write(frames)
        contents.add(path.read_bytes())
    assert len(contents) == 1
