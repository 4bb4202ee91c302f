"""Reading clips: frames in presentation order as uint8 RGB, their rate and their comment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltx2.errors import UserError
from ltx2.media.opening import opened

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class VideoMetadata:
    """What a clip holds; `audio_rate` is None without sound, sizes are as displayed."""

    frames: int
    fps: Fraction
    height: int
    width: int
    audio_rate: int | None

    @property
    def seconds(self) -> float:
        return float(self.frames / self.fps)


def read_video(
    path: str | Path,
    max_frames: int | None = None,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
) -> tuple[np.ndarray, Fraction]:
    """(frames (F, H, W, 3) uint8, fps) of the frames shown in [start, end), at most `max_frames`.

    Raises UserError if there is none. Source: pipelines spec 3.1.
    """
    frames = list(islice(iterate_frames(path, start_seconds, end_seconds), max_frames))
    if not frames:
        raise UserError(
            f"{path} shows no frame between {start_seconds} s and "
            f"{'its end' if end_seconds is None else f'{end_seconds} s'}; choose an earlier window"
        )
    with opened(path) as container:
        fps = _rate(_video_stream(container, path), path)
    return np.stack(frames), fps


def iterate_frames(
    path: str | Path, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Iterator[np.ndarray]:
    """Yield uint8 (H, W, 3), turned upright, for every frame shown in [start, end) seconds.

    A frame without time stamp counts as shown at its index over the average rate.
    """
    end = math.inf if end_seconds is None else end_seconds
    with opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            time = frame.time if frame.time is not None else float(index / _rate(stream, path))
            if time >= end:
                return
            if time >= start_seconds:
                yield _upright(frame)


def read_metadata(path: str | Path) -> VideoMetadata:
    """Size, rate and length; frames are counted by decoding where the file does not say."""
    with opened(path) as container:
        stream = _video_stream(container, path)
        fps, count = _rate(stream, path), stream.frames
        sound = container.streams.audio
        audio_rate = sound[0].rate if sound else None
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(f"{path} holds no frame; it is empty or damaged")
        count = count or 1 + sum(1 for _ in container.decode(stream))
        sideways = first.rotation % 180 != 0
        height, width = (first.height, first.width)[:: -1 if sideways else 1]
    return VideoMetadata(count, fps, height, width, audio_rate)


def read_comment(path: str | Path) -> str | None:
    """The `comment` tag of a video, a PNG, or the first PNG of a folder; None if it has none."""
    path = Path(path)
    if path.is_dir():
        pictures = sorted(path.glob("*.png"))
        if not pictures:
            raise UserError(f"folder {path} holds no PNG frame; name a video or a frame folder")
        path = pictures[0]
    if path.suffix.lower() == ".png" and path.exists():
        return _png_comment(path)
    with opened(path) as container:
        tags = {key.lower(): text for key, text in container.metadata.items()}
    return tags.get("comment")


def _png_comment(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get("comment")
    except OSError as error:
        raise UserError(f"{path} cannot be read as a PNG ({error})") from error
    return None if text is None else str(text)


def _video_stream(container: InputContainer, path: str | Path) -> VideoStream:
    if not container.streams.video:
        raise UserError(f"{path} has no video stream; name a video file")
    return container.streams.video[0]


def _rate(stream: VideoStream, path: str | Path) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise UserError(f"{path} does not say its frame rate; re-encode it with a constant rate")
    return rate


def _upright(frame: VideoFrame) -> np.ndarray:
    """Phones store sideways pictures and an angle, counter-clockwise."""
    from av.video.reformatter import Interpolation

    # The scaler's fast path would lose another level to truncation in every channel.
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    picture = frame.to_ndarray(format="rgb24", interpolation=exact)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
