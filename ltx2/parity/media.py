"""Golden component of the media layer: pixel conversions."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from ltx2.media.pixels import cover_resize, fit_reflect, rgb24, to_unit_range, yuv420p
from ltx2.parity.registry import Case, component


@component("media.pixels")
def pixels(case: Case) -> dict[str, np.ndarray]:
    """Resizing of one image and one clip, and the two 8-bit conversions."""
    settings = case.settings
    image, clip = case.inputs["image"][None], case.inputs["clip"]
    rgb = rearrange(case.inputs["rgb"], "f c h w -> f h w c")
    resized = cover_resize(image, *settings["target"])
    resized_clip = cover_resize(clip[: settings["clip_frames_used"]], *settings["clip_target"])
    padded = fit_reflect(clip[: settings["reflect_frames_used"]], *settings["reflect_target"])
    return {
        "resized": _channels_first(resized),
        "normalised": _channels_first(to_unit_range(resized)),
        "resized_clip": _channels_first(resized_clip),
        "reflect_padded": _channels_first(padded),
        "rgb24": rgb24(rgb),
        "yuv420p": yuv420p(rgb),
    }


def _channels_first(frames: np.ndarray) -> np.ndarray:
    return rearrange(frames, "f h w c -> 1 c f h w")
