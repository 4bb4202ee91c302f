"""HDR runs: which outputs make one, and which conditions it takes (spec pipelines.md section 3.3).

The pictures of such a run are ACEScct codes for the model, from the conditions to the decoded
frames; only files hold light.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltx2.errors import UserError
from ltx2.media.encoders import HDR_FORMATS
from ltx2.media.exr import SUFFIX, check_installed, check_space, exr_frames, read_codes, read_exr
from ltx2.media.hlg import check_width, is_hlg, read_hlg
from ltx2.media.pixels import cover_resize
from ltx2.pipelines.settings import ConditioningSettings, Settings


def is_hdr(settings: Settings) -> bool:
    """Whether the run's pictures are working codes."""
    return settings.output.format in HDR_FORMATS


def is_exr(path: str) -> bool:
    """Whether `path` is an EXR picture or a folder for EXR frames: one with some, or empty."""
    place = Path(path)
    if place.is_dir():
        suffixes = {item.suffix.lower() for item in place.iterdir()}
        return not suffixes or SUFFIX in suffixes
    return place.suffix.lower() == SUFFIX


def check_hdr(settings: Settings) -> None:
    """Refuse colour spaces that are not told, and SDR media in an HDR run or the reverse."""
    output, hdr = settings.output, is_hdr(settings)
    if output.format == "exr":
        check_installed()
        check_space("output.colour_space", output.colour_space)
    if output.format == "hevc_hlg" and settings.width is not None:
        check_width(settings.width)
    if output.format != "exr" and output.colour_space:
        raise UserError(
            f"output.colour_space={output.colour_space} has no effect on output={output.format}"
        )
    for name, item in settings.conditioning.items():
        if item.strength != 0:
            _check_condition(f"conditioning.{name}", item, output.format, hdr)


def _check_condition(key: str, item: ConditioningSettings, output: str, hdr: bool) -> None:
    exr = is_exr(item.path)
    if item.colour_space and not exr:
        raise UserError(f"{key}.colour_space has no effect on {item.path}, which is no EXR file")
    if not hdr and not exr:
        return
    if not hdr:
        raise UserError(
            f"{key}.path={item.path} is HDR; use output=exr or output=hevc_hlg, or convert it"
        )
    if item.kind == "reference":
        raise UserError(f"{key}: kind=reference is SDR only; use output=mp4")
    if exr:
        _check_exr(key, item)
    elif item.kind == "image" or not is_hlg(item.path):
        raise UserError(
            f"{key}.path={item.path} is SDR; output={output} takes EXR pictures, folders of them"
            " and HLG clips"
        )


def _check_exr(key: str, item: ConditioningSettings) -> None:
    check_space(f"{key}.colour_space", item.colour_space)
    if item.kind == "image":
        read_exr(item.path)
    else:
        exr_frames(item.path)


def clip_length(path: str) -> int | None:
    """Frames of a folder of EXR files; None for anything else."""
    return len(exr_frames(path)) if Path(path).is_dir() else None


def prepared_codes(
    item: ConditioningSettings, height: int, width: int, most: int | None = None
) -> np.ndarray:
    """(1, F, H, W, 3) float32 in [-1, 1] of an HDR condition, cover-resized, not re-compressed."""
    if is_exr(item.path):
        codes = read_codes(item.path, item.colour_space, most)
    else:
        codes = read_hlg(item.path, most)
    return prepared(codes, height, width)


def prepared(codes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Codes (F, H, W, 3) -> (1, F, height, width, 3) float32 in [-1, 1], cover-resized."""
    return cover_resize(codes, height, width)[None] * np.float32(2) - np.float32(1)
