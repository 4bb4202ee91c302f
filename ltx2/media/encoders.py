"""One encoder per kind of file: containers through PyAV, GIF, and folders of PNG frames.

All take chunks (f, H, W, 3), uint8 or float in [0, 1], keep none of them, and write the sound last.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ltx2.errors import UserError
from ltx2.media.audio import pcm16, write_wav
from ltx2.media.images import save_png
from ltx2.media.pixels import rgb24, yuv420p

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoStream
    from av.container import OutputContainer

# ITU-T H.273 code points.
_BT709 = 1
_LIMITED_RANGE = 1
# The rates of AAC tables; Opus is resampled to its own 48 kHz.
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200,
              96000)  # fmt: skip
_OPUS_RATE = 48_000
_MBTREE_UNIT = 128


@dataclass(frozen=True)
class EncodeOptions:
    """Compression; None means the default of the format: crf 19 veryfast for H.264, crf 31 for VP9.

    crf 0..51 (VP9 63), smaller is better; `threads` 0 lets the encoder choose. `hdr` is one of
    HDR_FORMATS: the frames are working codes (`ltx2.media.hdr`), for `exr` put into `colour_space`.
    """

    crf: int | None = None
    preset: str | None = None
    audio_kbps: int = 192
    threads: int = 0
    hdr: str = ""
    colour_space: str = ""


@dataclass(frozen=True)
class VideoFormat:
    """What a file suffix stands for; `codec` None means that there is nothing to tune."""

    muxer: str
    codec: str | None
    audio_codec: str | None
    max_crf: int
    default_crf: int
    carries_comment: bool = True
    needs_even_size: bool = True

    @property
    def carries_audio(self) -> bool:
        return self.audio_codec is not None


FORMATS = {
    ".mp4": VideoFormat("mp4", "libx264", "aac", 51, 19),
    ".mov": VideoFormat("mov", "libx264", "aac", 51, 19),
    ".mkv": VideoFormat("matroska", "libx264", "aac", 51, 19),
    ".webm": VideoFormat("webm", "libvpx-vp9", "libopus", 63, 31),
    ".gif": VideoFormat("gif", None, None, 0, 0, carries_comment=False, needs_even_size=False),
    "": VideoFormat("png folder", None, "wav", 0, 0, needs_even_size=False),
}
# By `EncodeOptions.hdr`; the suffixes that each can have.
HDR_FORMATS = {
    "exr": VideoFormat("exr folder", None, "wav", 0, 0, needs_even_size=False),
    "hevc_hlg": VideoFormat("mp4", "libx265", "aac", 51, 12),
}
HDR_SUFFIXES = {"exr": ("",), "hevc_hlg": (".mp4",)}
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
           "veryslow", "placebo")  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """What an encoder must know before the first frame."""

    format: VideoFormat
    fps: Fraction
    height: int
    width: int
    options: EncodeOptions
    comment: str | None
    audio_rate: int | None


class Encoder(Protocol):
    """Writes one clip; `finish` completes the file, `abandon` only lets go of it."""

    def write(self, frames: np.ndarray) -> None: ...

    def finish(self, waveform: np.ndarray | None) -> None: ...

    def abandon(self) -> None: ...


def open_encoder(path: Path, clip: Clip) -> Encoder:
    """The encoder of the clip's format, writing to `path` whatever its suffix."""
    if clip.options.hdr == "exr":
        from ltx2.media.exr import ExrEncoder

        return ExrEncoder(path, clip)
    if clip.options.hdr:
        from ltx2.media.hlg import HlgEncoder

        return HlgEncoder(path, clip)
    if clip.format.muxer == "gif":
        return GifEncoder(path, clip)
    if clip.format.codec is None:
        return PngEncoder(path, clip)
    return ContainerEncoder(path, clip)


def check_options(format: VideoFormat, options: EncodeOptions) -> None:
    """Refuse values out of range, and options that the format would ignore."""
    name = format.muxer
    if format.codec is None and (options.crf is not None or options.preset is not None):
        raise UserError(f"{name} output has no crf or preset; leave both unset or write .mp4")
    if options.crf is not None and not 0 <= options.crf <= format.max_crf:
        raise UserError(f"crf={options.crf} is not in 0..{format.max_crf} for {name}")
    if options.preset is not None and format.codec not in ("libx264", "libx265"):
        raise UserError(f"preset={options.preset} has no effect on {name}; leave it unset")
    if options.preset is not None and options.preset not in PRESETS:
        raise UserError(f"preset={options.preset} is unknown; use one of {', '.join(PRESETS)}")


def check_audio_rate(format: VideoFormat, rate: int) -> None:
    """Refuse rates that the format's audio codec cannot store, and formats without sound."""
    if not format.carries_audio:
        raise UserError(f"{format.muxer} holds no sound; write .mp4 or leave the audio out")
    if format.audio_codec == "aac" and rate not in _AAC_RATES:
        low = max([r for r in _AAC_RATES if r < rate], default=_AAC_RATES[0])
        high = min([r for r in _AAC_RATES if r > rate], default=_AAC_RATES[-1])
        raise UserError(f"AAC cannot store {rate} Hz; resample to {low} or {high} Hz")


@dataclass(frozen=True)
class Colours:
    """H.273 code points of a clip's tags."""

    primaries: int
    transfer: int
    matrix: int


class OutputFile(io.FileIO):
    """A file that PyAV writes through; it writes all of a buffer or raises OSError.

    PyAV leaves a file that it opened itself open for ever when a packet cannot be written.
    """

    def __init__(self, path: Path) -> None:
        # Readable: the muxer of mp4 moves what it has written to put the index in front.
        super().__init__(path, "w+")

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        while left:
            left = left[super().write(left) :]
        return len(data)


def _abandon(container: OutputContainer, file: OutputFile) -> None:
    """Let go of a clip that is not wanted; a container whose file is closed writes nothing more."""
    file.close()
    with contextlib.suppress(OSError, ValueError):
        container.close()


class ContainerEncoder:
    """mp4, mov, mkv and webm: BT.709 limited-range 4:2:0 video and stereo sound."""

    pixels = "yuv420p"
    colours = Colours(_BT709, _BT709, _BT709)
    tag: str | None = None

    def planes(self, picture: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) as the encoder's planes (H * 3/2, W)."""
        return yuv420p(picture[None])[0]

    def __init__(self, path: Path, clip: Clip) -> None:
        import av

        self._fps, self._written = clip.fps, 0
        # Without faststart a browser has to fetch the whole file before it can start.
        flags = {"movflags": "+faststart"} if clip.format.muxer in ("mp4", "mov") else {}
        self._file = OutputFile(path)
        self._container = av.open(self._file, "w", format=clip.format.muxer, options=flags)
        if clip.comment is not None:
            self._container.metadata["comment"] = clip.comment
        codec_name, codec_options = str(clip.format.codec), _codec_options(clip)
        stream = self._container.add_stream(codec_name, rate=clip.fps, options=codec_options)
        self._video = cast("VideoStream", stream)
        self._video.width, self._video.height = clip.width, clip.height
        self._video.pix_fmt = self.pixels
        codec = self._video.codec_context
        codec.time_base = 1 / clip.fps
        codec.thread_count = clip.options.threads
        codec.color_primaries, codec.color_trc = self.colours.primaries, self.colours.transfer
        codec.colorspace, codec.color_range = self.colours.matrix, _LIMITED_RANGE
        if self.tag is not None:
            codec.codec_tag = self.tag
        self._audio_rate = clip.audio_rate
        self._audio = None if clip.audio_rate is None else self._add_audio(clip)

    def _add_audio(self, clip: Clip) -> AudioStream:
        rate = _OPUS_RATE if clip.format.audio_codec == "libopus" else clip.audio_rate
        codec = str(clip.format.audio_codec)
        added = self._container.add_stream(codec, rate=rate, layout="stereo")
        stream = cast("AudioStream", added)
        stream.bit_rate = clip.options.audio_kbps * 1000
        return stream

    def write(self, frames: np.ndarray) -> None:
        import av

        for picture in frames:
            frame = av.VideoFrame.from_ndarray(self.planes(picture), format=self.pixels)
            frame.colorspace, frame.color_range = self.colours.matrix, _LIMITED_RANGE
            frame.color_primaries = self.colours.primaries
            frame.color_trc = self.colours.transfer
            frame.pts, frame.time_base = self._written, 1 / self._fps
            self._written += 1
            self._mux(self._video.encode(frame))

    def finish(self, waveform: np.ndarray | None) -> None:
        import av

        self._mux(self._video.encode(None))
        if waveform is not None and self._audio and self._audio_rate:
            packed = np.ascontiguousarray(pcm16(waveform).T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = self._audio_rate, 0
            frame.time_base = Fraction(1, self._audio_rate)
            self._mux(self._audio.encode(frame))
            self._mux(self._audio.encode(None))
        self._container.close()
        self._file.close()

    def abandon(self) -> None:
        _abandon(self._container, self._file)

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            self._container.mux(packet)


def _codec_options(clip: Clip) -> dict[str, str]:
    crf = clip.format.default_crf if clip.options.crf is None else clip.options.crf
    if clip.format.codec == "libx265":
        preset = clip.options.preset or "ultrafast"
        return {"crf": str(crf), "preset": preset, "x265-params": "log-level=error"}
    if clip.format.codec == "libx264":
        options = {"crf": str(crf), "preset": clip.options.preset or "veryfast"}
        # x264's macroblock tree reads past a row that is no multiple of eight macroblocks: the
        # same frames would be coded differently each time.
        return options if clip.width % _MBTREE_UNIT == 0 else options | {"x264-params": "mbtree=0"}
    # VP9 keeps to the quality only when the bit rate is 0; cpu-used 4 is its "fast".
    return {
        "crf": str(crf),
        "b": "0",
        "deadline": "good",
        "cpu-used": "4",
        "row-mt": "1",
    }


class GifEncoder:
    """GIF with one palette per picture, so that nothing has to be kept for a second pass."""

    def __init__(self, path: Path, clip: Clip) -> None:
        import av

        self._fps, self._written = clip.fps, 0
        self._file = OutputFile(path)
        self._container = av.open(self._file, "w", format="gif", options={"loop": "0"})
        self._video = self._container.add_stream("gif", rate=clip.fps)
        self._video.width, self._video.height = clip.width, clip.height
        self._video.pix_fmt = "pal8"
        self._graph = av.filter.Graph()
        pixels: Any = "rgb24"
        source = self._graph.add_buffer(
            width=clip.width, height=clip.height, format=pixels, time_base=1 / clip.fps
        )
        split = self._graph.add("split")
        palette = self._graph.add("palettegen", "stats_mode=single")
        mapped = self._graph.add("paletteuse", "new=1:dither=bayer")
        source.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(mapped, 1, 0)
        palette.link_to(mapped, 0, 1)
        mapped.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def write(self, frames: np.ndarray) -> None:
        import av

        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb24(picture)), format="rgb24")
            frame.pts, frame.time_base = self._written, 1 / self._fps
            self._written += 1
            self._graph.push(frame)
            self._drain()

    def _drain(self) -> None:
        import av

        # BlockingIOError: the graph wants more input. EOFError: it has given everything.
        with contextlib.suppress(av.BlockingIOError, av.EOFError):
            while True:
                self._container.mux(self._video.encode(self._graph.vpull()))

    def finish(self, waveform: np.ndarray | None) -> None:
        self._graph.push(None)
        self._drain()
        self._container.mux(self._video.encode(None))
        self._container.close()
        self._file.close()

    def abandon(self) -> None:
        _abandon(self._container, self._file)


class PngEncoder:
    """A folder of 00000.png, 00001.png, ...; comment in the first, sound in audio.wav."""

    def __init__(self, path: Path, clip: Clip) -> None:
        path.mkdir()
        self._folder, self._comment, self._written = path, clip.comment, 0
        self._audio_rate = clip.audio_rate

    def write(self, frames: np.ndarray) -> None:
        for picture in frames:
            comment = self._comment if self._written == 0 else None
            save_png(self._folder / f"{self._written:05d}.png", rgb24(picture), comment)
            self._written += 1

    def finish(self, waveform: np.ndarray | None) -> None:
        if waveform is not None and self._audio_rate:
            write_wav(self._folder / "audio.wav", waveform, self._audio_rate)

    def abandon(self) -> None:
        """Nothing is open between frames."""
