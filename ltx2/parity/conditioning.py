"""Golden components of conditioning items and the helpers that prepare them."""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange

from ltx2.diffusion.appended import (
    AttentionStrength,
    AudioReference,
    KeyframeIndex,
    KeyframeSlots,
    Reference,
)
from ltx2.diffusion.conditioning import (
    Conditioning,
    LatentIndex,
    MaskedLatent,
    TimeRegion,
    condition,
)
from ltx2.diffusion.frames import spaced_keyframes, subsampled, token_strengths
from ltx2.diffusion.state import LatentState, cleared, generated_keyframes, initial_state
from ltx2.models.latents import (
    VideoScale,
    audio_positions,
    pack_audio,
    pack_video,
    unpack_audio,
    unpack_video,
    video_positions,
)
from ltx2.parity.registry import Case, Outputs, component


@component("conditioning")
def conditioning(case: Case) -> Outputs:
    """Items applied in order to an initial latent."""
    video = case.settings["modality"] == "video"
    state = condition(_initial(case, video), [_item(case, i) for i in case.settings["items"]])
    result: dict[str, Any] = {
        "latent": state.latent,
        "clean_latent": state.clean,
        "cleared_latent": _cleared(case, state, video),
    }
    if state.slots is not None:
        result["generated_keyframes"] = rearrange(
            generated_keyframes(state), "b k h w c -> b c k h w"
        )
    tables = {
        "denoise_mask": state.mask,
        "positions": state.positions,
        "attention_mask": state.attention_mask,
        "keyframes_mask": state.keyframes_mask,
    }
    host = {name: value for name, value in tables.items() if value is not None}
    return {name: case.numpy(value) for name, value in result.items()} | host


def _initial(case: Case, video: bool) -> LatentState:
    if not video:
        tokens = pack_audio(rearrange(case.array("initial_latent"), "b c t m -> b t m c"))
        return initial_state(tokens, audio_positions(tokens.shape[1]))
    latent = _channels_last(case, "initial_latent")
    grid = tuple(latent.shape[1:4])
    positions = video_positions(grid, case.settings["fps"], _scale(case))
    return initial_state(pack_video(latent), positions, grid)


def _scale(case: Case) -> VideoScale:
    settings = case.settings
    return VideoScale(space=settings["height"] // settings["latent_grid"][1])


def _channels_last(case: Case, name: str) -> Any:
    return rearrange(case.array(name), "b c f h w -> b f h w c")


def _cleared(case: Case, state: LatentState, video: bool) -> Any:
    if video:
        assert state.grid is not None
        return rearrange(unpack_video(cleared(state), state.grid), "b f h w c -> b c f h w")
    channels = case.inputs["initial_latent"].shape[1]
    return rearrange(unpack_audio(cleared(state), channels), "b t m c -> b c t m")


def _item(case: Case, entry: dict[str, Any]) -> Conditioning:
    item = _plain_item(case, entry)
    strength = entry.get("attention_strength")
    if strength is None:
        return item
    return AttentionStrength(item, case.inputs[strength] if isinstance(strength, str) else strength)


def _plain_item(case: Case, entry: dict[str, Any]) -> Conditioning:
    kind, strength, fps = entry["type"], entry.get("strength", 1.0), case.settings["fps"]
    if kind == "time_region":
        return TimeRegion(entry["start"], entry["end"])
    if kind == "keyframe_slots":
        initial = entry.get("initial")
        return KeyframeSlots(
            tuple(entry["frames"]),
            case.settings["frames"],
            fps,
            _scale(case),
            None if initial is None else _channels_last(case, initial),
        )
    if kind == "audio_reference":
        positions = case.inputs[entry["positions"]]
        return AudioReference(case.array(entry["latent"]), positions, strength)
    latent = _channels_last(case, entry["latent"])
    if kind == "latent_index":
        return LatentIndex(latent, entry["latent_idx"], strength)
    if kind == "mask":
        return MaskedLatent(latent, case.inputs[entry["mask"]], strength)
    if kind == "keyframe_index":
        frames = entry.get("num_pixel_frames")
        return KeyframeIndex(latent, entry["frame_idx"], fps, _scale(case), strength, frames)
    return Reference(
        latent,
        fps,
        _scale(case),
        strength,
        entry.get("downscale_factor", 1),
        entry.get("temporal_scale_factor", 1),
    )


@component("conditioning.helpers")
def helpers(case: Case) -> Outputs:
    """Pixel mask to token strengths, temporal subsampling, evenly spaced keyframes."""
    settings = case.settings
    grid = tuple(settings["latent_grid"])
    result = {"latent_mask": token_strengths(case.inputs["pixel_mask"][:, 0], grid)}
    for i, (count, frames) in enumerate(settings["keyframes"]):
        result[f"keyframe_positions.{i}"] = np.array(spaced_keyframes(count, frames), np.int64)
    for factor in settings["temporal_factors"]:
        result[f"subsampled.{factor}"] = subsampled(case.inputs["frames"], factor, axis=2)
    return result
