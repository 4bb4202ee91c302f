"""Golden components of the convolutional video VAE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from einops import rearrange

from ltx2.models.diffusion_decoder import DiffusionDecoder
from ltx2.models.tiling import TileAxis, TileCount, Tiling, tiled_decode, tiled_encode
from ltx2.models.video_vae import DECODE_NOISE_SCALE, VideoDecoder
from ltx2.ops import Array
from ltx2.parity.defined import DefinedNoise
from ltx2.parity.registry import Case, component
from ltx2.pipelines.components.video import load_video_decoder, load_video_encoder
from ltx2.weights.header import read_header


def channels_last(x: Array) -> Array:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return rearrange(x, "b c f h w -> b f h w c")


def channels_first(x: np.ndarray) -> np.ndarray:
    """(B, F, H, W, C) -> (B, C, F, H, W)."""
    return rearrange(x, "b f h w c -> b c f h w")


def spread_block(block: np.ndarray, batch: int, frames: int, height: int, width: int) -> np.ndarray:
    """(B, F, H, W, 3) pixels in [-1, 1] from the periodic uint8 `block` (3, f, h, w)."""
    _, depth, rows, columns = block.shape
    sample, frame = np.arange(batch)[:, None], np.arange(frames)
    volume = block[:, (frame + sample) % depth]  # (3, B, F, h, w)
    volume = volume[..., np.arange(height) % rows, :][..., np.arange(width) % columns]
    pixels = volume.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return rearrange(pixels, "c b f h w -> b f h w c")


@component("video_vae.encode")
def encode(case: Case) -> dict[str, np.ndarray]:
    """Latents of every variant (frames, height, width, batch)."""
    encoder = load_video_encoder(read_header(case.checkpoints[0]), case.backend, case.dtype)
    outputs = {}
    for name, (frames, height, width, batch) in case.settings["variants"].items():
        pixels = spread_block(case.inputs["block"], batch, frames, height, width)
        latent = encoder(case.backend.array(pixels, case.dtype))
        outputs[f"latent.{name}"] = channels_first(case.numpy(latent))
    return outputs


@component("video_vae.decode")
def decode(case: Case) -> dict[str, np.ndarray]:
    """Plain variants (`latent.NAME`), or one timestep-conditioned clip (`latent`)."""
    decoder = load_video_decoder(read_header(case.checkpoints[0]), case.backend, case.dtype)
    assert isinstance(decoder, VideoDecoder)
    outputs: dict[str, np.ndarray] = {}
    for name in case.inputs:
        if name.startswith("latent."):
            video = decoder(channels_last(case.array(name)))
            outputs |= _views(case.numpy(video), name.removeprefix("latent"))
    if "latent" in case.inputs:
        outputs |= _conditioned(case, decoder)
    wanted = case.record["outputs"]
    stride = case.settings.get("stored_pixel_stride", 1)
    return {name: _thin(name, x, stride) for name, x in outputs.items() if name in wanted}


def _views(video: np.ndarray, suffix: str) -> dict[str, np.ndarray]:
    frames = np.clip((video[0] + 1) / 2, 0, 1)
    return {f"video{suffix}": channels_first(video), f"frames{suffix}": frames}


def _conditioned(case: Case, decoder: VideoDecoder) -> dict[str, np.ndarray]:
    latent = channels_last(case.array("latent"))
    timestep = case.inputs.get("timestep")
    scale = case.settings.get("decode_noise_scale", DECODE_NOISE_SCALE)
    if case.settings.get("noise") == "off":
        silent = decoder(latent, timestep)
        scaled = decoder(latent, timestep, lambda shape: np.zeros(shape, np.float32), scale)
        return _views(case.numpy(silent), "") | _views(case.numpy(scaled), "_scaled_latent")
    return _views(case.numpy(decoder(latent, timestep, replay(case), scale)), "")


def replay(case: Case) -> Callable[[tuple[int, ...]], np.ndarray]:
    """A noise source that hands out the recorded draws in order."""
    names = iter(sorted(name for name in case.inputs if name.startswith("noise.")))

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        value = case.inputs[next(names)]
        if value.shape != shape:
            raise ValueError(f"the case recorded noise {value.shape}, the decoder wants {shape}")
        return value

    return draw


def _thin(name: str, x: np.ndarray, stride: int) -> np.ndarray:
    """Every `stride`-th row and column; `frames` are (F, H, W, 3), `video` (B, 3, F, H, W)."""
    if name.startswith("frames"):
        return x[:, ::stride, ::stride]
    return x[..., ::stride, ::stride]


@component("video_vae.diffusion_decode")
def decode_diffusion(case: Case) -> dict[str, np.ndarray]:
    """The clip of a diffusion decoder, whole or in the tiles that the case names.

    The reference was recorded with its default border behaviour.
    """
    decoder = load_video_decoder(read_header(case.checkpoints[0]), case.backend, case.dtype)
    assert isinstance(decoder, DiffusionDecoder)
    decoder.set_border("replicate")
    latent = channels_last(case.array("latent"))
    noise = DefinedNoise(case.inputs["noise_block"]).normal
    if "axes" in case.settings:
        tiling = read_tiling(case.settings["axes"], "size")
        chunks = list(tiled_decode(decoder, latent, tiling, noise))
    else:
        chunks = [decoder(latent, noise=noise)]
    lengths = [chunk.shape[1] for chunk in chunks]
    if lengths != case.settings.get("chunk_frames", lengths):
        raise ValueError(f"the chunks have {lengths} frames")
    video = channels_first(np.concatenate([case.numpy(chunk) for chunk in chunks], axis=1))
    stride = case.settings["stored_pixel_stride"]
    return {"video": video[..., ::stride, ::stride]}


@component("video_vae.tiled_decode")
def decode_tiled(case: Case) -> dict[str, np.ndarray]:
    """The blended clip, its chunk lengths, and the same clip in one piece."""
    decoder = load_video_decoder(read_header(case.checkpoints[0]), case.backend, case.dtype)
    latent = channels_last(case.array("latent"))
    noise = replay(case) if any(name.startswith("noise.") for name in case.inputs) else None
    tiling = read_tiling(case.settings["axes"], case.settings.get("layout", "size"))
    chunks = [case.numpy(chunk) for chunk in tiled_decode(decoder, latent, tiling, noise)]
    videos = {"tiled": channels_first(np.concatenate(chunks, axis=1))}
    if "untiled" in case.record["outputs"]:
        videos["untiled"] = channels_first(case.numpy(decoder(latent, noise=noise)))
    stride = case.settings.get("stored_pixel_stride", 1)
    return {name: x[..., ::stride, ::stride] for name, x in videos.items()}


@component("video_vae.tiled_encode")
def encode_tiled(case: Case) -> dict[str, np.ndarray]:
    """The latent blended from tiles, and in one piece."""
    encoder = load_video_encoder(read_header(case.checkpoints[0]), case.backend, case.dtype)
    size = case.settings["frames_height_width"]
    pixels = spread_block(case.inputs["block"], 1, *size)
    tiling = read_tiling(case.settings["axes"], case.settings.get("layout", "size"))
    return {
        "tiled": channels_first(case.numpy(tiled_encode(encoder, pixels, tiling))),
        "untiled": channels_first(case.numpy(encoder(case.backend.array(pixels, case.dtype)))),
    }


def read_tiling(axes: dict[str, dict[str, int]], layout: str) -> Tiling:
    """A case's tiling; axes that it does not name are untiled."""
    kind = TileCount if layout == "count" else TileAxis
    return Tiling(*(kind(**axes.get(name, {})) for name in ("frames", "height", "width")))
