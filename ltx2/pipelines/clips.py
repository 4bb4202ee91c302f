"""The clip that a run starts from: a video file, or light for an HDR run.

Light is a folder of EXR frames or an HLG clip; it is read as working codes in [0, 1], a video file
as 8-bit pixels (spec pipelines.md sections 3.1 and 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ltx2.errors import UserError
from ltx2.media.exr import check_space, exr_frames, exr_size, iterate_codes
from ltx2.media.hlg import is_hlg, iterate_hlg
from ltx2.media.video import VideoMetadata, exact_rate, iterate_frames, read_metadata
from ltx2.pipelines.hdr import is_exr, is_hdr
from ltx2.pipelines.settings import Settings

# What a folder of our own holds beside the frames.
SOUND = "audio.wav"


def input_metadata(settings: Settings) -> VideoMetadata:
    """Size, rate and length of input.video. EXR frames tell no rate: it is that of the run."""
    path = settings.input.video
    if not _is_folder(path):
        return read_metadata(path)
    check_input_clip(settings)
    if settings.fps is None:
        raise UserError(f"input.video={path}: EXR frames do not tell their rate; set fps=24")
    files = exr_frames(path)
    return VideoMetadata(len(files), exact_rate(settings.fps), *exr_size(files), None)


def iterate_input(settings: Settings) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) of input.video: uint8, or float32 codes of an HDR run."""
    path = settings.input.video
    if not is_hdr(settings):
        return iterate_frames(path)
    return iterate_codes(path, settings.input.colour_space) if is_exr(path) else iterate_hlg(path)


def read_input(settings: Settings, most: int) -> np.ndarray:
    """The first `most` frames (F, H, W, 3) of input.video."""
    return np.stack(list(islice(iterate_input(settings), most)))


def sound_path(settings: Settings) -> str:
    """Where the input's sound would be, empty where there can be none: input.audio, or the clip."""
    return settings.input.audio or clip_sound_path(settings)


def clip_sound_path(settings: Settings) -> str:
    """Where the clip's own sound would be: in its file, or in audio.wav beside its EXR frames."""
    video = settings.input.video
    if not _is_folder(video):
        return video
    beside = Path(video) / SOUND
    return str(beside) if beside.is_file() else ""


def check_input_clip(settings: Settings) -> None:
    """Refuse light in an SDR run, SDR clips in an HDR run, and colour spaces nobody asks for."""
    given, hdr, output = settings.input, is_hdr(settings), settings.output.format
    exr = bool(given.video) and is_exr(given.video)
    if given.colour_space and not exr:
        what = f"input.video={given.video}" if given.video else "an empty input.video"
        raise UserError(
            f"input.colour_space={given.colour_space} has no effect on {what}: it is no EXR folder"
        )
    if not given.video or not (exr or hdr):
        return
    if not hdr:
        raise UserError(
            f"input.video={given.video} is HDR; use output=exr or output=hevc_hlg, or convert it"
        )
    if exr:
        check_space("input.colour_space", given.colour_space)
        exr_frames(given.video)
    elif not is_hlg(given.video):
        raise UserError(
            f"input.video={given.video} is SDR; output={output} takes folders of EXR frames and"
            " HLG clips"
        )
    if any("source" in s.conditions for s in settings.pipeline.stages if s.do == "sample"):
        raise UserError(
            f"pipeline={settings.pipeline.name} reads input.video as a reference, which is SDR"
            " only; use output=mp4"
        )


def _is_folder(path: str) -> bool:
    return bool(path) and is_exr(path)
