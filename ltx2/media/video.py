"""Writing clips chunk by chunk; reading is in `ltx2.media.reading` and re-exported here."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ltx2.errors import UserError
from ltx2.media.atomic import check_writable, replacing
from ltx2.media.encoders import (
    FORMATS,
    HDR_FORMATS,
    HDR_SUFFIXES,
    Clip,
    EncodeOptions,
    Encoder,
    VideoFormat,
    check_audio_rate,
    check_options,
    open_encoder,
)
from ltx2.media.reading import (
    VideoMetadata,
    iterate_frames,
    read_comment,
    read_metadata,
    read_video,
)

__all__ = [
    "EncodeOptions", "VideoMetadata", "VideoWriter", "check_target", "check_writable",
    "exact_rate", "iterate_frames", "read_comment", "read_metadata", "read_video",
]  # fmt: skip

log = logging.getLogger(__name__)

# 23.98, 29.97 and 59.94 are how people write 24, 30 and 60 slowed down by 1000/1001.
_NTSC_TOLERANCE = 0.005


def exact_rate(fps: float | Fraction) -> Fraction:
    """The rational frame rate meant by `fps`: 24 -> 24, 23.976 -> 24000/1001, 12.5 -> 25/2."""
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise UserError(f"fps={fps} is not in (0, 1000]; use for example 24")
    if isinstance(fps, Fraction) or fps == round(fps):
        return Fraction(fps)
    ntsc = Fraction(math.ceil(fps) * 1000, 1001)
    if abs(fps - ntsc) < _NTSC_TOLERANCE:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def check_target(path: str | Path, options: EncodeOptions | None = None) -> VideoFormat:
    """Find, before any expensive work, what would stop a clip from being written to `path`.

    The suffix chooses the format; none means a folder of PNG frames. `options.hdr` goes before.
    Creates the parent folder.
    """
    path, options = Path(path), options or EncodeOptions()
    format = _hdr_format(path, options) if options.hdr else _format(path)
    check_options(format, options)
    check_writable(path.parent)
    if path.is_dir() and (path.suffix or any(path.iterdir())):
        raise UserError(f"{path} is a folder that exists already; choose another name")
    if path.is_file() and not path.suffix:
        raise UserError(f"{path} is a file; frames need a folder, or give a suffix such as .mp4")
    return format


def _format(path: Path) -> VideoFormat:
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(suffix for suffix in FORMATS if suffix)
        raise UserError(
            f"{path}: '{path.suffix}' is no video format; use {known}, or no suffix for a folder "
            "of PNG frames"
        )
    return FORMATS[path.suffix.lower()]


def _hdr_format(path: Path, options: EncodeOptions) -> VideoFormat:
    suffixes = HDR_SUFFIXES[options.hdr]
    if path.suffix.lower() not in suffixes:
        wanted = " or ".join(suffixes) if suffixes[0] else "a folder's name"
        raise UserError(f"{path}: '{path.suffix}' cannot hold {options.hdr}; use {wanted}")
    if options.hdr == "exr":
        from ltx2.media.exr import check_installed, check_space

        check_installed()
        check_space("colour_space", options.colour_space)
    return HDR_FORMATS[options.hdr]


class VideoWriter:
    """Context manager that encodes chunks as they come; the file appears on a clean exit only.

    Mistakes that need no frame raise UserError in the constructor. `fps` as in `exact_rate`;
    `comment` goes into the file's comment tag; `audio_rate` announces sound, which must then be
    given by `add_audio` at any time before the exit. Source: pipelines spec 3.2, audio spec 8.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction,
        options: EncodeOptions | None = None,
        *,
        comment: str | None = None,
        audio_rate: int | None = None,
    ) -> None:
        self.path, self.fps = Path(path), exact_rate(fps)
        self.format = check_target(self.path, options)
        if audio_rate is not None:
            check_audio_rate(self.format, audio_rate)
        if comment is not None and not self.format.carries_comment:
            log.warning("%s: a %s keeps no comment", self.path, self.format.muxer)
        self.frames = 0
        self._options, self._comment = options or EncodeOptions(), comment
        self._audio_rate = audio_rate
        self._waveform: np.ndarray | None = None
        self._encoder: Encoder | None = None
        self._size: tuple[int, int] | None = None
        self._temporary: Path | None = None
        self._session: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        self._session = self._open()
        self._session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._session is not None, "VideoWriter left without being entered"
        return self._session.__exit__(kind, error, trace)

    def write(self, frames: np.ndarray) -> None:
        """Encode (f, H, W, 3), float in [0, 1] or uint8; nothing of it is kept."""
        if frames.ndim != 4 or frames.shape[3] != 3:
            raise UserError(f"frames of shape {frames.shape} are not (f, height, width, 3)")
        if len(frames) == 0:
            return
        if frames.dtype != np.uint8 and not np.isfinite(frames.sum(dtype=np.float64)):
            raise UserError(
                f"the decoded frames from {self.frames} on hold NaN or infinity; decode in float32"
            )
        if self._encoder is None:
            self._encoder = self._start(frames.shape[1], frames.shape[2])
        elif frames.shape[1:3] != self._size:
            raise UserError(f"frame size changed from {self._size} to {frames.shape[1:3]}")
        self._encoder.write(frames)
        self.frames += len(frames)

    def add_audio(self, waveform: np.ndarray) -> None:
        """The sound (2, N) at `audio_rate`; cut, or filled with silence, to the video's length."""
        if self._audio_rate is None:
            raise UserError("this VideoWriter was opened without audio_rate; give it there")
        if waveform.ndim != 2 or waveform.shape[0] != 2 or waveform.shape[1] == 0:
            raise UserError(f"waveform of shape {waveform.shape} is not (2, samples)")
        if not np.isfinite(waveform.sum(dtype=np.float64)):
            raise UserError(
                "the waveform holds NaN or infinity: damaged weights or half precision;"
                " checks=strict names the phase in which it began"
            )
        self._waveform = waveform

    @contextmanager
    def _open(self) -> Iterator[None]:
        with replacing(self.path) as self._temporary:
            try:
                yield
                self._finish()
            except BaseException:
                if self._encoder is not None:
                    self._encoder.abandon()
                raise

    def _start(self, height: int, width: int) -> Encoder:
        assert self._temporary is not None, "VideoWriter.write outside `with`"
        if self.format.needs_even_size and (height % 2 or width % 2):
            raise UserError(
                f"frame size {height}x{width} is odd, {self.format.muxer} needs even sizes; "
                f"use {height - height % 2}x{width - width % 2}"
            )
        self._size = height, width
        clip = Clip(
            self.format,
            self.fps,
            height,
            width,
            self._options,
            self._comment,
            self._audio_rate,
        )
        return open_encoder(self._temporary, clip)

    def _finish(self) -> None:
        if self._encoder is None:
            raise UserError(f"no frame was given for {self.path}; the clip is empty")
        if self._audio_rate is not None and self._waveform is None:
            raise UserError(f"{self.path} was announced with sound but add_audio was not called")
        self._encoder.finish(self._fitted_waveform())

    def _fitted_waveform(self) -> np.ndarray | None:
        """Encoder frames would otherwise leave the sound up to 30 ms shorter than the picture."""
        if self._waveform is None or self._audio_rate is None:
            return None
        samples = round(self.frames / self.fps * self._audio_rate)
        silence = max(0, samples - self._waveform.shape[1])
        return np.pad(self._waveform[:, :samples], ((0, 0), (0, silence)))
