"""Still pictures: reading what users have, compressing like the training data, writing PNG."""

from __future__ import annotations

import io
import logging
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltx2.errors import MissingFile, UserError
from ltx2.media.atomic import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


def read_image(path: str | Path) -> np.ndarray:
    """Any Pillow format -> uint8 (H, W, 3) sRGB.

    All eight EXIF orientations are applied, an embedded ICC profile is converted to sRGB, 16-bit
    samples keep their high byte, transparency is composited over black; an animation gives its
    first frame. Source: pipelines spec 1.8.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if path.is_dir():
        raise UserError(f"image {path} is a folder; name one picture file")
    if not path.exists():
        raise MissingFile(f"image {path} does not exist; check the path")
    try:
        with Image.open(path) as opened:
            opened.load()
            # The copy stops Pillow from consulting the file again, and keeps the ICC profile.
            image = ImageOps.exif_transpose(opened.copy())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); use PNG, JPEG, WebP or TIFF"
        ) from error
    if min(image.size) < 2:
        raise UserError(
            f"image {path} is {image.width}x{image.height} px; both sides must be at least 2 px"
        )
    return _over_black(_to_eight_bits(image, path), path)


def recompress(image: np.ndarray, crf: int) -> np.ndarray:
    """Send uint8 (H, W, 3) through one H.264 frame, as the training pictures were: uint8 RGB.

    Odd sizes lose their last row or column. `crf` 0 or a side below 2 px returns the picture
    unchanged. Source: pipelines spec 1.8 (x264 veryfast, yuv420p).
    """
    import av

    if crf is None or not 0 <= crf <= 51:
        raise UserError(f"image crf={crf} is not in 0..51; use 0 (off), 18 or 33")
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    if crf == 0 or not height or not width:
        return image
    even = np.ascontiguousarray(image[:height, :width])
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1), {"crf": str(crf), "preset": "veryfast"}
    packets = encoder.encode(av.VideoFrame.from_ndarray(even, format="rgb24"))
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    return frames[0].to_ndarray(format="rgb24")


def write_png(
    path: str | Path, image: np.ndarray, comment: str | None = None, effort: int = 6
) -> None:
    """Write uint8 (H, W, 3) or (H, W), with `comment` as international text; never half a file.

    `effort` of compression, 0 to 9.
    """
    with replacing(path) as temporary:
        save_png(temporary, image, comment, effort)


def save_png(
    path: str | Path, image: np.ndarray, comment: str | None = None, effort: int = 6
) -> None:
    """`write_png` without the temporary name, for inside a folder that is itself temporary."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    if comment is not None:
        text.add_itxt("comment", comment)
    Image.fromarray(image).save(path, format="PNG", pnginfo=text, compress_level=effort)


def _to_eight_bits(image: Image, path: Path) -> Image:
    """Gray pictures of more than 8 bits -> mode L; Pillow itself would clip them."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(f"image {path} has float samples; convert it to an 8- or 16-bit PNG")
    if not image.mode.startswith("I"):
        return image
    deep = np.asarray(image)
    gray = Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    gray.info = image.info
    return gray


def _over_black(image: Image, path: Path) -> np.ndarray:
    """Any 8-bit mode -> uint8 (H, W, 3): ICC profile first, then alpha times colour."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.has_transparency_data and "A" not in image.mode:
        image = image.convert("RGBA")  # one colour of an RGB or gray PNG is declared transparent
    alpha = image.getchannel("A") if "A" in image.mode[1:] and image.mode != "LAB" else None
    opaque = {"RGBA": "RGB", "LA": "L", "La": "L", "RGBa": "RGB"}.get(image.mode)
    colour = np.asarray(_to_srgb(image.convert(opaque) if opaque else image, path))
    if alpha is None:
        return colour.copy()
    weight = np.asarray(alpha).astype(np.uint16)[..., None]
    return ((colour * weight + 127) // 255).astype(np.uint8)


def _to_srgb(image: Image, path: Path) -> Image:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            log.warning("%s: its colour profile cannot be applied (%s); ignored", path, error)
    return image.convert("RGB")
