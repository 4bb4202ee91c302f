"""OpenEXR pictures: reading stills and folders of frames, writing folders of half-float frames.

Files hold what their colour space says, the model's side is working codes (`ltx2.media.hdr`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.errors import MissingFile, UserError, nearest
from ltx2.media.audio import write_wav
from ltx2.media.encoders import Clip
from ltx2.media.hdr import SPACES, codes_from, pixels_in

SUFFIX = ".exr"
# CIE xy of red, green, blue and white.
_REC709 = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
_AP1 = (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767)
_CHROMATICITIES = {"srgb_linear": _REC709, "acescg": _AP1, "acescct": _AP1}
# A name and the number of a frame.
_NUMBERED = re.compile(r"(.*?)(\d+)")
_HALF_MOST = np.float32(65504)


def check_installed() -> None:
    """Raise UserError where the library behind EXR files is absent."""
    if importlib.util.find_spec("OpenEXR") is None:
        raise UserError('EXR files need the package OpenEXR: pip install "ltx2[hdr]"')


def check_space(key: str, space: str) -> None:
    """Raise UserError unless `space` names a colour space of EXR files."""
    if not space:
        raise UserError(f"{key} is empty: EXR files do not tell it; use {', '.join(SPACES)}")
    if space not in SPACES:
        known = ", ".join(SPACES)
        raise UserError(f"{key}={space} is unknown{nearest(space, SPACES)}; use {known}")


def exr_frames(folder: str | Path) -> list[Path]:
    """The EXR files of a folder: by the numbers at the end of their names, else by name.

    Raises UserError if there is none, a number is missing, or there are several sequences.
    """
    folder = Path(folder)
    if folder.suffix.lower() == SUFFIX:
        raise UserError(f"{folder} is one picture; name the folder of its frames")
    frames = sorted(file for file in folder.glob("*") if file.suffix.lower() == SUFFIX)
    if not frames:
        raise UserError(f"folder {folder} holds no EXR frame; name a folder of EXR files")
    numbered = [match for file in frames if (match := _NUMBERED.fullmatch(file.stem))]
    if len(numbered) < len(frames):
        return frames
    names = sorted({match[1] for match in numbered})
    if len(names) > 1:
        raise UserError(
            f"folder {folder} holds frames of several clips ('{names[0]}...', '{names[1]}...');"
            " give each a folder"
        )
    pairs = zip((int(match[2]) for match in numbered), frames, strict=True)
    ordered = sorted(pairs, key=lambda pair: pair[0])
    for (number, file), (following, other) in pairwise(ordered):
        if following != number + 1:
            between = "are one frame twice" if following == number else "do not follow each other"
            raise UserError(
                f"folder {folder}: {file.name} and {other.name} {between}; give every frame once"
            )
    return [file for _, file in ordered]


def exr_size(files: Sequence[Path]) -> tuple[int, int]:
    """(height, width) of the frames, from their headers. Raises UserError if they differ."""
    check_installed()
    first = _header_size(files[0])
    for file in files[1:]:
        if (size := _header_size(file)) != first:
            shown = [f"{height} x {width}" for height, width in (size, first)]
            raise UserError(f"{file} is {shown[0]} px, {files[0].name} {shown[1]}; give one size")
    return first


def _header_size(path: Path) -> tuple[int, int]:
    import OpenEXR

    try:
        with OpenEXR.File(str(path), header_only=True) as file:
            low, high = file.header()["dataWindow"]
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read as an EXR picture ({error})") from None
    return int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1


def read_exr(path: str | Path) -> np.ndarray:
    """The pixels (H, W, 3) float32 of a picture as they are; an alpha channel is left out.

    Raises UserError for a file without red, green and blue, or with values that are no numbers.
    """
    check_installed()
    import OpenEXR

    path = Path(path)
    if path.is_dir():
        raise UserError(f"image {path} is a folder; name one picture file")
    if not path.exists():
        raise MissingFile(f"image {path} does not exist; check the path")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as an EXR picture ({error})") from None
    absent = [name for name in "RGB" if name not in channels]
    if absent:
        held = ", ".join(sorted(channels)) or "none"
        raise UserError(f"{path} has no channel {absent[0]}; its channels: {held}")
    planes = [np.asarray(channels[name], np.float32) for name in "RGB"]
    if len({plane.shape for plane in planes}) > 1:
        raise UserError(f"{path}: its channels differ in size; write R, G and B at full size")
    pixels = np.stack(planes, axis=-1)
    if not np.isfinite(pixels).all():
        raise UserError(f"{path} holds NaN or infinity; repair it first")
    return pixels


def read_codes(path: str | Path, space: str, most: int | None = None) -> np.ndarray:
    """Working codes (F, H, W, 3) of a picture, or of a folder's first `most` frames."""
    path = Path(path)
    return np.stack(list(islice(iterate_codes(path, space), most)))


def iterate_codes(path: str | Path, space: str) -> Iterator[np.ndarray]:
    """Yield the working codes (H, W, 3) of a picture, or of every frame of a folder."""
    path = Path(path)
    shape: tuple[int, ...] | None = None
    for file in exr_frames(path) if path.is_dir() else [path]:
        frame = codes_from(read_exr(file), space)
        if shape is not None and frame.shape != shape:
            sizes = [" x ".join(map(str, s[:2])) for s in (frame.shape, shape)]
            raise UserError(f"{file} is {sizes[0]} px, the frames before it {sizes[1]}")
        shape = frame.shape
        yield frame


def write_exr(path: Path, pixels: np.ndarray, space: str, comment: str | None = None) -> None:
    """Write (H, W, 3) in `space` as half floats, zip-compressed, with its primaries."""
    import OpenEXR

    header: dict[str, Any] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "chromaticities": _CHROMATICITIES[space],
        "colorSpace": space,
    }
    if comment is not None:
        header["comments"] = comment
    half = np.ascontiguousarray(np.minimum(pixels, _HALF_MOST).astype(np.float16))
    with OpenEXR.File(header, {"RGB": half}) as file:
        file.write(str(path))


class ExrEncoder:
    """A folder of frame_00000.exr, frame_00001.exr, ... of working codes; sound in audio.wav."""

    def __init__(self, path: Path, clip: Clip) -> None:
        check_installed()
        path.mkdir()
        self._folder, self._clip, self._written = path, clip, 0

    def write(self, frames: np.ndarray) -> None:
        for codes in frames:
            comment = self._clip.comment if self._written == 0 else None
            space = self._clip.options.colour_space
            target = self._folder / f"frame_{self._written:05d}{SUFFIX}"
            write_exr(target, pixels_in(codes, space), space, comment)
            self._written += 1

    def finish(self, waveform: np.ndarray | None) -> None:
        if waveform is not None and self._clip.audio_rate:
            write_wav(self._folder / "audio.wav", waveform, self._clip.audio_rate)

    def abandon(self) -> None:
        """Nothing is open between frames."""
