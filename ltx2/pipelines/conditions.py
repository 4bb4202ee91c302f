"""Condition images of a stage: read, prepared as in training, encoded at the stage's size."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.appended import KeyframeIndex
from ltx2.diffusion.conditioning import LatentIndex
from ltx2.media.images import read_image, recompress
from ltx2.media.pixels import cover_resize, to_unit_range
from ltx2.pipelines.components.video import load_video_encoder
from ltx2.pipelines.plan import Plan, StagePlan


def prepared_image(path: str, crf: int, height: int, width: int) -> np.ndarray:
    """(1, 1, H, W, 3) float32 in [-1, 1]: re-compressed, cover-resized, centre-cropped.

    Source: spec pipelines.md section 1.8. `crf` 0 skips the compression.
    """
    image = recompress(read_image(path), crf)
    return to_unit_range(cover_resize(image[None], height, width))[None]


def condition_items(plan: Plan, stage: StagePlan, backend: Any, dtype: str) -> list[Any]:
    """Conditioning items of `stage`, in the order of the config.

    The first frame is written over the latent; an image at any other frame is appended as
    keyframe tokens. A strength of 0 keeps nothing and is left out.
    """
    wanted = [c for c in plan.settings.conditioning.values() if c.strength != 0]
    if not wanted:
        return []
    encoder = load_video_encoder(plan.headers["checkpoint"], backend, dtype)
    items: list[Any] = []
    for condition in wanted:
        pixels = prepared_image(condition.path, condition.crf or 0, stage.height, stage.width)
        # The state of a stream is float32 whatever the encoder computes in.
        latent = ops.f32(encoder(backend.array(pixels, dtype)))
        frame = condition.frame % plan.frames
        if frame == 0:
            items.append(LatentIndex(latent, 0, condition.strength))
        else:
            items.append(KeyframeIndex(latent, frame, plan.fps, plan.scale, condition.strength))
    return items
