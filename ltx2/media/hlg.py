"""HLG clips: BT.2020 hybrid log-gamma in HEVC with 10 bits, written from and read to working codes.

Source: pipelines spec 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ltx2.errors import UserError
from ltx2.media.encoders import Clip, Colours, ContainerEncoder
from ltx2.media.hdr import codes_from_hlg, hlg_signal, rgb_of_levels, yuv420p10
from ltx2.media.opening import opened

# ITU-T H.273 code points: BT.2020 primaries, ARIB STD-B67, BT.2020 non-constant luminance.
_PRIMARIES, _TRANSFER, _MATRIX = 9, 18, 9
LEAST_WIDTH = 64
# Levels of 16 bits per level of 10.
_DEEPER = 64


class HlgEncoder(ContainerEncoder):
    """mp4: HEVC Main 10 as Apple's players want it tagged, and stereo sound."""

    pixels = "yuv420p10le"
    colours = Colours(_PRIMARIES, _TRANSFER, _MATRIX)
    tag = "hvc1"

    def __init__(self, path: Path, clip: Clip) -> None:
        check_width(clip.width)
        super().__init__(path, clip)

    def planes(self, picture: np.ndarray) -> np.ndarray:
        return yuv420p10(hlg_signal(picture))


def check_width(width: int) -> None:
    """Raise UserError for a clip that x265 cannot encode: it would write past its own memory."""
    if width < LEAST_WIDTH:
        raise UserError(f"HEVC needs frames at least {LEAST_WIDTH} px wide, not {width}")


def is_hlg(path: str | Path) -> bool:
    """Whether the clip at `path` says that it is hybrid log-gamma."""
    with opened(path) as container:
        videos = container.streams.video
        return bool(videos) and videos[0].codec_context.color_trc == _TRANSFER


def read_hlg(path: str | Path, most: int | None = None) -> np.ndarray:
    """Working codes (F, H, W, 3) of a clip's first `most` frames."""
    frames = list(islice(iterate_hlg(path), most))
    if not frames:
        raise UserError(f"{path} holds no frame; it is empty or damaged")
    return np.stack(frames)


def iterate_hlg(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the working codes (H, W, 3) of every frame.

    Raises UserError for a clip that is not what `HlgEncoder` writes: BT.2020, limited range.
    """
    with opened(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec.colorspace != _MATRIX or codec.color_primaries != _PRIMARIES:
            raise UserError(f"{path} is HLG but not BT.2020; convert it to BT.2020 first")
        for frame in container.decode(stream):
            # Scaled to 16 bits and full chroma without a change of matrix or range.
            deep = frame.reformat(format="yuv444p16le").to_ndarray().astype(np.float64) / _DEEPER
            yield codes_from_hlg(rgb_of_levels(*np.moveaxis(deep, -1, 0)))
