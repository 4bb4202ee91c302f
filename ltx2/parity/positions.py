"""Golden components without weights: positions, token order, rotary and timestep embeddings."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from ltx2.models import latents
from ltx2.nn import rope
from ltx2.nn.timestep import sinusoid
from ltx2.parity.registry import Case, component


@component("positions.video")
def video(case: Case) -> dict[str, np.ndarray]:
    """Positions and the mask of the first latent frame, for several sizes and frame rates."""
    time, space, _ = case.settings["scale_factors"]
    scale = latents.VideoScale(time, space)
    out = {}
    for k, c in enumerate(case.settings["cases"]):
        grid = latents.video_latent_shape(c["frames"], c["height"], c["width"], scale)
        positions = latents.video_positions(grid, c["fps"], scale, case.settings["causal_fix"])
        mask = latents.first_frame_mask(grid)[..., None]
        out[f"positions.{k}"] = np.repeat(positions, c["batch"], 0)
        out[f"keyframes_mask.{k}"] = np.repeat(mask, c["batch"], 0)
    return out


@component("positions.audio")
def audio(case: Case) -> dict[str, np.ndarray]:
    """Positions of the audio that belongs to clips of several lengths and frame rates."""
    s = case.settings
    timing = latents.AudioTiming(s["sample_rate"], s["hop_length"], s["latent_downsample"])
    out = {}
    for k, c in enumerate(s["cases"]):
        count = latents.audio_latent_length(c["frames"], c["fps"], timing.per_second)
        out[f"positions.{k}"] = latents.audio_positions(count, timing, s["causal"])
    return out


@component("patchify")
def patchify(case: Case) -> dict[str, np.ndarray]:
    """Latents and pixels to tokens and back, on the backend's arrays."""
    s = case.settings
    x = {
        name: case.backend.array(np.moveaxis(case.inputs[name], 1, -1))
        for name in ("video_latent", "pixels")
    }
    audio_latent = case.backend.array(rearrange(case.inputs["audio_latent"], "b c t m -> b t m c"))
    video_latent = x["video_latent"]
    tokens = latents.pack_video(video_latent, s["video_patch"])
    restored = latents.unpack_video(tokens, video_latent.shape[1:4], s["video_patch"])
    audio_tokens = latents.pack_audio(audio_latent)
    audio_restored = latents.unpack_audio(audio_tokens, audio_latent.shape[-1])
    patches = latents.patchify_pixels(x["pixels"], s["pixel_patch"])
    pixels = latents.unpatchify_pixels(patches, s["pixel_patch"])
    alternative = latents.pack_video(video_latent, s["video_patch_alt"])
    return {
        "video_tokens": case.numpy(tokens),
        "video_tokens_patch2": case.numpy(alternative),
        "video_restored": np.moveaxis(case.numpy(restored), -1, 1),
        "audio_tokens": case.numpy(audio_tokens),
        "audio_restored": rearrange(case.numpy(audio_restored), "b t m c -> b c t m"),
        "pixel_patches": np.moveaxis(case.numpy(patches), -1, 1),
        "pixels_restored": np.moveaxis(case.numpy(pixels), -1, 1),
    }


@component("rope")
def rotary(case: Case) -> dict[str, np.ndarray]:
    """Frequencies, cosine and sine tables and a rotated vector."""
    s = case.settings
    options = rope.RopeOptions(
        dim=s["dim"],
        heads=s["heads"],
        max_pos=rope.max_positions(s["max_pos"]),
        theta=s["theta"],
        split=s["type"] == "split",
        float64_grid=s["frequency_precision"] == "float64",
    )
    positions = case.inputs["positions"]
    middle = rope.midpoints(positions) if s["use_middle_of_span"] else positions[..., :]
    if middle.ndim == 4:
        middle = middle[..., 0]
    x = case.array("x")
    table = rope.rope_table(middle, options, x)
    cos, sin = case.numpy(table.cos), case.numpy(table.sin)
    if options.split:
        cos, sin = (rearrange(t, "b t n d -> b n t d") for t in (cos, sin))
    rotated = rope.rotate(x, table)
    return {
        "frequencies": rope.frequencies(options),
        "cos": cos,
        "sin": sin,
        "rotated": case.numpy(rotated),
    }


@component("timestep_embedding.sinusoidal")
def sinusoidal(case: Case) -> dict[str, np.ndarray]:
    """Features of timesteps that are already scaled."""
    return {"embedding": sinusoid(case.inputs["timesteps"], case.settings["dim"])}
