"""Video VAE parts from a header: a monolith, or a file that holds the VAE alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltx2.errors import UserError
from ltx2.models.diffusion_decoder import DiffusionDecoder
from ltx2.models.diffusion_decoder_config import DiffusionDecoderConfig
from ltx2.models.latents import VideoScale
from ltx2.models.video_vae import PerChannelStatistics, VideoDecoder, VideoEncoder
from ltx2.models.video_vae_config import (
    VideoDecoderConfig,
    VideoEncoderConfig,
    is_diffusion,
    latent_width,
    vae_scale,
)
from ltx2.weights.build import Backend, Prefixes, load, present_prefix
from ltx2.weights.header import Header

DecoderConfig = VideoDecoderConfig | DiffusionDecoderConfig

ENCODER = ("vae.encoder.", "encoder.")
DECODER = ("vae.decoder.", "decoder.")
STATISTICS = ("vae.per_channel_statistics.", "per_channel_statistics.")
_SHARED: dict[str, tuple[str, ...]] = {"per_channel_statistics": STATISTICS}


def vae_section(header: Header) -> dict[str, Any]:
    """The `vae` metadata. Raises UserError for a file that is not, and does not hold, a VAE."""
    section = header.config.get("vae")
    if not isinstance(section, dict):
        raise UserError(
            f"{header.path.name} has no video VAE in its metadata (sections:"
            f" {', '.join(sorted(header.config)) or 'none'}); use a full checkpoint or a VAE file"
        )
    return section


def video_scale(header: Header) -> VideoScale:
    """Frames and pixels per latent position; reads no weights."""
    return vae_scale(vae_section(header))


def latent_channels(header: Header) -> int:
    """Channels of the video latent; reads no weights."""
    return latent_width(vae_section(header))


def load_video_encoder(header: Header, backend: Backend, dtype: str = "fp32") -> VideoEncoder:
    """The convolutional encoder, which every generation has."""
    module = VideoEncoder.declare(VideoEncoderConfig.from_metadata(vae_section(header)))
    return load(module, header, Prefixes(ENCODER, _SHARED), backend, dtype, "the video encoder")


def decoder_config(header: Header) -> DecoderConfig:
    """Architecture of the file's decoder, convolutional or diffusion."""
    section = vae_section(header)
    if is_diffusion(section):
        return DiffusionDecoderConfig.from_metadata(section)
    marks = tuple(f"{prefix}last_time_embedder." for prefix in DECODER)
    has_embedder = any(name.startswith(marks) for name in header.tensors)
    return VideoDecoderConfig.from_metadata(section, has_embedder)


def read_video_decoder(
    header: Header, backend: Backend, dtype: str = "fp32"
) -> VideoDecoder | DiffusionDecoder:
    """The decoder as it stands in the file; `load_video_decoder` makes it ready."""
    config = decoder_config(header)
    module: VideoDecoder | DiffusionDecoder
    if isinstance(config, DiffusionDecoderConfig):
        module = DiffusionDecoder.declare(config)
    else:
        module = VideoDecoder.declare(config)
    return load(module, header, Prefixes(DECODER, _SHARED), backend, dtype, "the video decoder")


def load_video_decoder(
    header: Header, backend: Backend, dtype: str = "fp32"
) -> VideoDecoder | DiffusionDecoder:
    """The file's decoder, convolutional or diffusion."""
    decoder = read_video_decoder(header, backend, dtype)
    if isinstance(decoder, DiffusionDecoder):
        decoder.fold_gates(backend.array(np.zeros(1, np.float32), _stored_dtype(header)))
    return decoder


def _stored_dtype(header: Header) -> str:
    prefix = present_prefix(header, DECODER)
    stored = header.tensors[f"{prefix}conv_in.weight"].dtype
    return {"BF16": "bf16", "F16": "fp16"}.get(stored, "fp32")


def load_statistics(header: Header, backend: Backend, dtype: str = "fp32") -> PerChannelStatistics:
    """The latent statistics alone, as latent upsamplers need them."""
    module = PerChannelStatistics.declare(latent_channels(header))
    return load(module, header, Prefixes(STATISTICS), backend, dtype, "video latent statistics")
