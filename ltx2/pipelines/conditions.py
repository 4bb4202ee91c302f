"""Condition images and clips of a stage: read, prepared as in training, encoded at its size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.appended import (
    AttentionStrength,
    AudioReference,
    KeyframeIndex,
    KeyframeSlots,
    Reference,
)
from ltx2.diffusion.conditioning import LatentIndex, MaskedLatent
from ltx2.diffusion.frames import subsampled, token_strengths
from ltx2.errors import UserError
from ltx2.media.control import IMAGE_SUFFIXES, reference_clip
from ltx2.media.images import read_image, recompress
from ltx2.media.pixels import cover_resize, to_unit_range
from ltx2.media.video import read_video
from ltx2.models.latents import audio_positions, pack_audio
from ltx2.models.video_vae import VideoEncoder
from ltx2.ops import Array
from ltx2.pipelines.components.video import load_video_encoder
from ltx2.pipelines.hdr import is_hdr, prepared_codes
from ltx2.pipelines.latents import Latents
from ltx2.pipelines.loras import detail_factor, reference_scales
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.settings import ConditioningSettings
from ltx2.pipelines.sources import encode_clip, prepared_clip

if TYPE_CHECKING:
    from ltx2.pipelines.keeper import Keeper

# Seconds between the end of a reference sound and the start of the clip.
REFERENCE_GAP = np.float32(0.04)


def prepared_image(path: str, crf: int, height: int, width: int) -> np.ndarray:
    """(1, 1, H, W, 3) float32 in [-1, 1]: re-compressed, cover-resized, centre-cropped.

    Source: spec pipelines.md section 1.8. `crf` 0 skips the compression.
    """
    image = recompress(read_image(path), crf)
    return to_unit_range(cover_resize(image[None], height, width))[None]


def stage_conditions(plan: Plan, stage: StagePlan) -> list[ConditioningSettings]:
    """The conditions that `stage` takes; a strength of 0 keeps nothing and is left out."""
    kinds = stage.settings.conditions
    given = [c for c in plan.settings.conditioning.values() if c.strength != 0]
    # References go last: their tokens stand behind those of the images.
    return [c for kind in ("image", "video", "reference") for c in given if c.kind == kind in kinds]


def condition_items(plan: Plan, stage: StagePlan, start: Latents, encode: Encoding) -> list[Any]:
    """Conditioning items of `stage` in the order they are applied."""
    items: list[Any] = []
    if "mask" in stage.settings.conditions and plan.settings.input.mask:
        items.append(_kept(plan, stage, start))
    for condition in stage_conditions(plan, stage):
        build = {"image": _image, "video": _clip, "reference": _reference}[condition.kind]
        items.append(build(condition, plan, stage, encode))
    if "source" in stage.settings.conditions:
        whole = ConditioningSettings(kind="reference", path=plan.settings.input.video)
        items.append(_reference(whole, plan, stage, encode))
    if stage.settings.keyframe_slots and plan.keyframe_slots:
        frames, seeds = plan.keyframe_slots, start.slots
        items.append(KeyframeSlots(frames, plan.frames, plan.fps, plan.scale, seeds))
    return items


def detail_reference(plan: Plan, video: Array) -> Reference:
    """The first stage's pictures as the reference of the detailing LoRA (spec 2.10)."""
    factor = detail_factor(plan.settings, plan.files)
    return Reference(ops.f32(video), plan.fps, plan.scale, downscale=factor)


def sound_reference(plan: Plan, audio: Array) -> AudioReference:
    """The sound latent (1, T, M, C) as reference tokens at negative times (spec 2.12)."""
    positions = audio_positions(audio.shape[1], plan.audio_timing)
    return AudioReference(ops.f32(pack_audio(audio)), positions - positions.max() - REFERENCE_GAP)


class Encoding:
    """Turns pixels into float32 latents; the encoder is loaded when something must be encoded."""

    def __init__(
        self, plan: Plan, backend: Any, dtype: str, keeper: Keeper, part: Callable[..., Any]
    ) -> None:
        self._plan, self._backend, self._dtype = plan, backend, dtype
        self._keeper, self._part = keeper, part
        self._encoder: VideoEncoder | None = None

    def __call__(self, pixels: np.ndarray) -> Array:
        """Pixels (1, F, H, W, 3) in [-1, 1] -> latent (1, F', H', W', C)."""
        key, latent = self._keeper.condition(pixels)
        if latent is not None:
            return latent
        if self._encoder is None:
            header = self._plan.header_of("video_vae")
            load = partial(load_video_encoder, header, self._backend, self._dtype)
            self._encoder = self._part("video encoder", header, self._dtype, load)
        latent = encode_clip(self._encoder, pixels, self._plan, self._backend, self._dtype)
        self._keeper.put_condition(key, latent)
        return latent


def _image(
    condition: ConditioningSettings, plan: Plan, stage: StagePlan, encode: Encoding
) -> LatentIndex | KeyframeIndex:
    """The first frame is written over the latent, others are appended as keyframe tokens."""
    crf = 0 if condition.crf is None else condition.crf
    if is_hdr(plan.settings):
        pixels = prepared_codes(condition, stage.height, stage.width)
    else:
        pixels = prepared_image(condition.path, crf, stage.height, stage.width)
    latent = encode(pixels)
    frame = condition.frame % plan.asked_frames
    if frame == 0 and not stage.settings.keyframes:
        return LatentIndex(latent, 0, condition.strength)
    return KeyframeIndex(latent, frame, plan.fps, plan.scale, condition.strength)


def _clip(
    condition: ConditioningSettings, plan: Plan, stage: StagePlan, encode: Encoding
) -> LatentIndex | KeyframeIndex:
    """A clip at the start is written over the latent, elsewhere appended as keyframe tokens."""
    frame = condition.frame % plan.asked_frames
    room = plan.frames - frame
    if is_hdr(plan.settings):
        pixels = prepared_codes(condition, stage.height, stage.width, room)
    else:
        pixels = prepared_clip(read_video(condition.path, room)[0], stage.height, stage.width)
    usable = (pixels.shape[1] - 1) // plan.scale.time * plan.scale.time + 1
    latent = encode(pixels[:, :usable])
    if frame == 0:
        return LatentIndex(latent, 0, condition.strength)
    return KeyframeIndex(latent, frame, plan.fps, plan.scale, condition.strength, usable)


def _reference(
    condition: ConditioningSettings, plan: Plan, stage: StagePlan, encode: Encoding
) -> Any:
    """A reference video, smaller and sparser as the IC-LoRA's metadata says (spec 2.5)."""
    downscale, temporal = reference_scales(plan.settings, plan.files)
    height, width = stage.height // downscale, stage.width // downscale
    output = plan.height, plan.width
    frames = reference_clip(condition.path, condition.control, plan.frames, height, width, output)
    shown = len(frames)
    if shown > 1 and temporal > 1:
        frames = subsampled(frames, temporal, 0)
    usable = (len(frames) - 1) // plan.scale.time * plan.scale.time + 1
    latent = encode(prepared_clip(frames[:usable], height, width))
    item = Reference(latent, plan.fps, plan.scale, condition.strength, downscale, temporal)
    if condition.mask:
        mask = _covering(mask_video(condition.mask, shown), height, width)
        if shown > 1 and temporal > 1:
            mask = subsampled(mask, temporal, 0)
        strengths = token_strengths(mask[None, :usable], latent.shape[1:4])
        return AttentionStrength(item, strengths * condition.attention)
    return item if condition.attention == 1 else AttentionStrength(item, condition.attention)


def _covering(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of (F, H, W) that `cover_resize` to `height` x `width` would show."""
    rows, columns = frames.shape[1:]
    tall = min(rows, round(columns * height / width))
    wide = min(columns, round(rows * width / height))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return frames[:, top : top + tall, left : left + wide]


def mask_video(path: str, frames: int) -> np.ndarray:
    """(F, H, W) float32 in [0, 1] of a picture (repeated) or a video of at least `frames`."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        shown = np.repeat(read_image(path)[None], frames, axis=0)
    else:
        shown, _ = read_video(path, frames)
    if len(shown) < frames:
        raise UserError(f"mask {path} has {len(shown)} frames, the clip {frames}; make it longer")
    return shown.mean(axis=-1, dtype=np.float32) / np.float32(255)


def _kept(plan: Plan, stage: StagePlan, start: Latents) -> MaskedLatent:
    """The source kept where the input mask is black; one white pixel frees its whole latent."""
    assert start.video is not None
    mask = mask_video(plan.settings.input.mask, plan.frames)
    resized = cover_resize((mask[..., None] * 255).repeat(3, -1), stage.height, stage.width)
    generate = (resized[..., 0] > 127).astype(np.float32)
    _, rows, columns = stage.grid
    space, time = plan.scale.space, plan.scale.time
    blocks = generate.reshape(plan.frames, rows, space, columns, space).max(axis=(2, 4))
    later = blocks[1:].reshape(-1, time, rows, columns).max(axis=1)
    latent_mask = np.concatenate([blocks[:1], later])
    return MaskedLatent(ops.f32(start.video), 1 - latent_mask[None])
