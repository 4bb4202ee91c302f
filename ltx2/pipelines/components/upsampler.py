"""Latent upsamplers from their own files: loading them, and their use between two stages."""

from __future__ import annotations

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.latents import Grid
from ltx2.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx2.models.video_vae import PerChannelStatistics
from ltx2.ops import Array
from ltx2.weights.build import Backend, Prefixes, load
from ltx2.weights.header import Header

_MARK = "initial_conv.weight"


def upsampler_config(header: Header) -> UpsamplerConfig:
    """Architecture of the file. Raises UserError for a file of another kind."""
    if _MARK not in header.tensors:
        holds = f"its first tensor is '{min(header.tensors)}'" if header.tensors else "it is empty"
        raise UserError(
            f"{header.path.name} is not a latent upsampler ({holds}); use a file such as"
            " ltx-2-spatial-upscaler-x2-1.0.safetensors"
        )
    return UpsamplerConfig.from_metadata(header.config)


def upsampler_kind(header: Header) -> str:
    """Such as `spatial x2`, `spatial x1.5` or `temporal x2`; reads no weights."""
    return upsampler_config(header).kind


def upsampled_grid(header: Header, grid: Grid) -> Grid:
    """The latent grid (F, H, W) that the file makes of `grid`; reads no weights."""
    return upsampler_config(header).grid(grid)


def load_upsampler(header: Header, backend: Backend, dtype: str = "fp32") -> LatentUpsampler:
    """The network of the file, whose tensors have no prefix."""
    module = LatentUpsampler.declare(upsampler_config(header))
    return load(module, header, Prefixes(("",)), backend, dtype, "the latent upsampler")


def upsample(upsampler: LatentUpsampler, statistics: PerChannelStatistics, latent: Array) -> Array:
    """Normalised (B, F, H, W, C) latent -> normalised and finer, in the dtype of `latent`.

    `statistics` are those of the video VAE: the network works on un-normalised latents.
    Raises UserError if the upsampler is for another latent width.
    """
    width, channels = upsampler.config.in_channels, latent.shape[-1]
    if width != channels:
        raise UserError(f"the latent upsampler takes {width} channels, the latent has {channels}")
    z = statistics.un_normalise(ops.like(latent, upsampler.initial_conv.weight))
    return ops.like(statistics.normalise(upsampler(z)), latent)
