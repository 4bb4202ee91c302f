"""Where a run's frames and sound go: the encoder, and a few frames for the contact sheet."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ltx2.media.audio import write_wav
from ltx2.media.contact import contact_sheet
from ltx2.media.encoders import HDR_FORMATS, EncodeOptions
from ltx2.media.hdr import shown
from ltx2.media.images import write_png
from ltx2.media.video import VideoWriter, check_target
from ltx2.pipelines.settings import OutputSettings

# Endings of names that are not the format's own; those without a dot are folders.
SUFFIXES = {"png": "", "exr": "_exr", "hevc_hlg": ".mp4"}
SHEET_TILES, SHEET_COLUMNS, SHEET_TILE_PX = 8, 4, 256
# Of compressing it: more would take longer than encoding a short clip.
SHEET_EFFORT = 1


class SoundSink:
    """For pipelines without pictures: a 16-bit WAV file."""

    carries_comment = False

    def __init__(self, folder: Path, name: str = "audio") -> None:
        self.path = folder / f"{name}.wav"
        self._sound: tuple[np.ndarray, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._sound is not None:
            write_wav(self.path, *self._sound)

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        """The sound (2, N)."""
        self._sound = waveform, rate

    def frames(self, chunk: np.ndarray) -> None:
        """There are no pictures."""
        raise AssertionError("a pipeline without pictures produced frames")

    def write_sheet(self) -> None:
        """There are no pictures."""


class ClipSink:
    """Streams chunks to the encoder; the file appears only when everything went well."""

    def __init__(
        self, folder: Path, output: OutputSettings, fps: float, frames: int, name: str = "video"
    ) -> None:
        suffix = SUFFIXES.get(output.format, f".{output.format}")
        self.path = folder / f"{name}{suffix}"
        self._sheet = folder / "frames.png" if output.contact_sheet else None
        # Only H.264 has presets, and only lossy video has a CRF.
        lossy = output.format in ("mp4", "webm", "hevc_hlg")
        self._hdr = output.format in HDR_FORMATS
        self._options = EncodeOptions(
            crf=output.crf if lossy else None,
            preset=output.preset if output.format in ("mp4", "hevc_hlg") else None,
            hdr=output.format if self._hdr else "",
            colour_space=output.colour_space,
        )
        # A folder of frames has no tag of its own; run.json is beside it.
        tagged = check_target(self.path, self._options).carries_comment
        self.carries_comment = tagged and self.path.suffix != ""
        self._carries_audio = check_target(self.path, self._options).carries_audio
        self._fps = fps
        self._picks = set(np.linspace(0, frames - 1, min(SHEET_TILES, frames)).round().astype(int))
        self._kept: list[np.ndarray] = []
        self._seen = 0
        self._writer: VideoWriter | None = None
        self._waveform: np.ndarray | None = None
        self._rate: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        """The sound (2, N); given before the first frame."""
        self._waveform, self._rate = waveform, rate

    def frames(self, chunk: np.ndarray) -> None:
        """A chunk (f, H, W, 3) in [0, 1]."""
        if self._writer is None:
            self._open()
        assert self._writer is not None
        self._writer.write(chunk)
        for index, frame in enumerate(chunk, self._seen):
            if index in self._picks:
                self._kept.append(shown(frame) if self._hdr else frame.copy())
        self._seen += len(chunk)

    def write_sheet(self) -> Path | None:
        """Save the contact sheet of the frames kept on the way."""
        if self._sheet is None or not self._kept:
            return None
        frames = np.stack(self._kept)
        write_png(
            self._sheet,
            contact_sheet(
                frames, count=len(frames), columns=SHEET_COLUMNS, tile_width=SHEET_TILE_PX
            ),
            effort=SHEET_EFFORT,
        )
        return self._sheet

    def _open(self) -> None:
        rate = self._rate if self._carries_audio else None
        self._writer = VideoWriter(self.path, self._fps, self._options, audio_rate=rate)
        self._writer.__enter__()
        if rate is not None and self._waveform is not None:
            self._writer.add_audio(self._waveform)
