"""A run folder or a media file that a clip is compared with; what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.errors import MissingFile, UserError
from ltx2.experiment.metrics.base import Clip
from ltx2.media.audio import read_audio, to_stereo
from ltx2.media.images import read_image
from ltx2.media.video import iterate_frames, read_metadata

VIDEOS = ("video.mp4", "video.webm", "video.gif", "video")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
RATE_TOLERANCE = 0.01
# An encoder's last frame of sound may be partial.
LENGTH_TOLERANCE_SECONDS = 0.1


@dataclass(frozen=True)
class Reference:
    """Where its pictures, sound and latents are; None for what it does not have.

    `key` is the setting that named it, for messages.
    """

    key: str
    path: Path
    video: Path | None = None
    sound: Path | None = None
    latents: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def pictures(self, clip: Clip) -> Iterator[np.ndarray]:
        """Its frames (H, W, 3) uint8, which must be as many and as large as those of `clip`."""
        if not clip.height:
            raise UserError(
                f"{self.key} is for comparing pictures, and this run makes sound only; leave it out"
            )
        if self.video is None:
            raise UserError(f"{self.key}={self.path} has no pictures; name another run or file")
        pictures = sorted(self.video.glob("*.png")) if self.video.is_dir() else []
        if pictures:
            height, width = read_image(pictures[0]).shape[:2]
            self._check((height, width, len(pictures)), self.record.get("fps"), clip)
            return (read_image(picture) for picture in pictures)
        found = read_metadata(self.video)
        self._check((found.height, found.width, found.frames), float(found.fps), clip)
        return iterate_frames(self.video)

    def waveform(self, clip: Clip) -> tuple[np.ndarray, int]:
        """Its sound (2, N) and rate; as long as `clip`."""
        found = None if self.sound is None else read_audio(self.sound)
        if found is None:
            raise UserError(f"{self.key}={self.path} has no sound; name another run or file")
        samples, rate = found
        seconds = samples.shape[1] / rate
        if abs(seconds - clip.seconds) > LENGTH_TOLERANCE_SECONDS:
            raise UserError(
                f"{self.key}={self.path} has {seconds:.2f} s of sound, this run makes"
                f" {clip.seconds:.2f} s; only equal lengths are compared"
            )
        return to_stereo(samples), rate

    def steps(self, clip: Clip) -> dict[str, Path]:
        """Its files of latents after every step, by stage."""
        files = [] if self.latents is None else sorted(self.latents.glob("*.steps.safetensors"))
        if not files:
            raise UserError(
                f"{self.key}={self.path} keeps no latents of its steps; name a run folder that was"
                " made with save_steps=true"
            )
        if self.record:
            size = self.record["size"]
            sizes = size["height"], size["width"], self.record["frames"]
            if clip.height:
                self._check(sizes, self.record["fps"], clip)
        return {file.name.removesuffix(".steps.safetensors"): file for file in files}

    def _check(self, theirs: tuple[int, int, int], fps: float | None, clip: Clip) -> None:
        ours = clip.height, clip.width, clip.frames
        same_rate = fps is None or abs(fps - clip.fps) < RATE_TOLERANCE
        if theirs != ours or not same_rate:
            raise UserError(
                f"{self.key}={self.path} is {_size(theirs, fps)}, this run makes"
                f" {_size(ours, clip.fps)}; only equal clips are compared"
            )


def _size(size: tuple[int, int, int], fps: float | None) -> str:
    height, width, frames = size
    return f"{width}x{height}, {frames} frames" + ("" if fps is None else f" at {fps:g} fps")


def find_reference(path: str | None, key: str) -> Reference:
    """What lies at `path`, which the setting `key` gave. Raises UserError if it is nothing."""
    if not path:
        raise UserError(f"{key} is not set; name a run folder or a media file to compare with")
    found = Path(path).expanduser()
    if not found.exists():
        raise MissingFile(f"{key}={path} does not exist; name a run folder or a media file")
    if found.is_file():
        if found.suffix.lower() in SOUNDS:
            return Reference(key, found, sound=found)
        return Reference(key, found, video=found, sound=_sound_of(found))
    if not (found / "run.json").is_file() and not (found / "config.yaml").is_file():
        if not any(found.glob("*.png")):
            raise UserError(f"{key}={path} is neither a run folder nor a folder of PNG frames")
        return Reference(key, found, video=found, sound=_existing(found / "audio.wav"))
    return _run(found, key)


def _run(folder: Path, key: str) -> Reference:
    video = next((folder / name for name in VIDEOS if (folder / name).exists()), None)
    sound = _existing(folder / "audio.wav")
    if sound is None and video is not None:
        sound = _existing(video / "audio.wav") if video.is_dir() else _sound_of(video)
    record: dict[str, Any] = {}
    if (folder / "run.json").is_file():
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{folder / 'run.json'} is damaged ({error}); compare with another"
            ) from error
    return Reference(key, folder, video, sound, folder / "latents", record)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _sound_of(video: Path) -> Path | None:
    return None if read_metadata(video).audio_rate is None else video
