"""Architecture of the convolutional video VAE, read from a checkpoint's `vae` metadata.

Two layouts exist: flat keys (`CausalVideoAutoencoder`), and `vae.encoder` / `vae.decoder` sections
in files with the diffusion decoder. Defaults are those of spec video_vae.md section 1.2; note that
the same absent key means zero padding in the encoder and reflection in the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.models.latents import VideoScale

STRIDES = {"time": (2, 1, 1), "space": (1, 2, 2), "all": (2, 2, 2)}
PADDINGS = {"zeros": "zeros", "reflect": "reflect", "replicate": "edge", "circular": "circular"}
ENCODER_KINDS = (
    "res_x", "res_x_y", *(f"compress_{axes}{form}" for axes in STRIDES for form in ("", "_res"))
)  # fmt: skip
DECODER_KINDS = ("res_x", "res_x_y", *(f"compress_{axes}" for axes in STRIDES))
LOG_VARIANCES = ("uniform", "per_channel", "constant", "none")
PLAIN_CLASS = "CausalVideoAutoencoder"


@dataclass(frozen=True)
class BlockConfig:
    """One entry of a block list; `multiplier` is the change of width."""

    kind: str
    layers: int
    multiplier: int
    residual: bool
    inject_noise: bool

    @property
    def stride(self) -> tuple[int, int, int]:
        """Factors of (F, H, W); ones for residual blocks."""
        axes = self.kind.removeprefix("compress_").removesuffix("_res")
        return STRIDES[axes] if self.kind.startswith("compress_") else (1, 1, 1)


@dataclass(frozen=True)
class VideoEncoderConfig:
    """Pixels to latent means. `padding` is the mode of the spatial axes as `ops.pad` names it."""

    blocks: tuple[BlockConfig, ...]
    in_channels: int
    latent_channels: int
    patch_size: int
    padding: str
    log_variance: str

    @classmethod
    def from_metadata(cls, vae: dict[str, Any]) -> VideoEncoderConfig:
        """From the `vae` section of a file's config. Raises UserError naming a wrong key."""
        nested = is_diffusion(vae)
        section = section_of(vae, "encoder") if nested else vae
        return cls(
            blocks=_blocks(section, ENCODER_KINDS, "encoder_blocks", nested),
            in_channels=section.get("in_channels", 3),
            latent_channels=latent_width(vae),
            patch_size=section.get("patch_size", 4),
            padding=_padding(section, "encoder_spatial_padding_mode", "zeros"),
            log_variance=one_of(section, "latent_log_var", LOG_VARIANCES, "uniform"),
        )

    @property
    def out_channels(self) -> int:
        """Channels of the last convolution: the means, and log-variances that nobody reads."""
        extra = {"uniform": 1, "constant": 1, "none": 0, "per_channel": self.latent_channels}
        return self.latent_channels + extra[self.log_variance]

    @property
    def scale(self) -> VideoScale:
        return scale_of(self.blocks, self.patch_size)


@dataclass(frozen=True)
class VideoDecoderConfig:
    """Latent to pixels. `blocks` keep the order of the file, which is the encoder's order."""

    blocks: tuple[BlockConfig, ...]
    out_channels: int
    latent_channels: int
    base_channels: int
    patch_size: int
    padding: str
    causal: bool
    timestep_conditioning: bool

    @classmethod
    def from_metadata(
        cls, vae: dict[str, Any], has_time_embedder: bool = True
    ) -> VideoDecoderConfig:
        """From the `vae` section of a file's config.

        `has_time_embedder` (the file holds `last_time_embedder`) decides about timestep
        conditioning only where the metadata does not: first-generation files hold embedders that
        their metadata switches off. Raises UserError naming a wrong key.
        """
        if is_diffusion(vae):
            raise UserError(
                f"the video VAE is a {vae['_class_name']}, whose decoder is not convolutional;"
                f" use a file whose vae._class_name is {PLAIN_CLASS}"
            )
        return cls(
            blocks=_blocks(vae, DECODER_KINDS, "decoder_blocks"),
            out_channels=vae.get("out_channels", 3),
            latent_channels=latent_width(vae),
            base_channels=vae.get("decoder_base_channels", 128),
            patch_size=vae.get("patch_size", 4),
            padding=_padding(vae, "", "reflect"),
            causal=vae.get("causal_decoder", False),
            timestep_conditioning=vae.get("timestep_conditioning", has_time_embedder),
        )

    @property
    def bottleneck(self) -> int:
        """Width after the first convolution."""
        return self.base_channels * math.prod(block.multiplier for block in self.blocks)

    @property
    def scale(self) -> VideoScale:
        return scale_of(self.blocks, self.patch_size)


def is_diffusion(vae: dict[str, Any]) -> bool:
    """Whether the file's decoder is the diffusion decoder (then sections are nested)."""
    return vae.get("_class_name", PLAIN_CLASS) != PLAIN_CLASS


def latent_width(vae: dict[str, Any]) -> int:
    """Channels of the latent."""
    if not is_diffusion(vae):
        return vae.get("latent_channels", 128)
    return section_of(vae, "encoder").get("out_channels", vae.get("latent_channels", 128))


def scale_of(blocks: Sequence[BlockConfig], patch_size: int) -> VideoScale:
    """Frames and pixels per latent position that the block list makes."""
    time, height, _ = (math.prod(axis) for axis in zip(*(b.stride for b in blocks), strict=True))
    return VideoScale(time, patch_size * height)


def vae_scale(vae: dict[str, Any]) -> VideoScale:
    """Frames and pixels per latent position, from the encoder's list or else the decoder's."""
    if is_diffusion(vae) or "encoder_blocks" in vae:
        return VideoEncoderConfig.from_metadata(vae).scale
    return VideoDecoderConfig.from_metadata(vae).scale


def section_of(vae: dict[str, Any], key: str) -> dict[str, Any]:
    """`vae[key]`, one half of a nested layout."""
    if not isinstance(vae.get(key), dict):
        raise UserError(f"the checkpoint's metadata has no section 'vae.{key}'")
    return vae[key]


def _blocks(
    section: dict[str, Any], kinds: Sequence[str], key: str, nested: bool = False
) -> tuple[BlockConfig, ...]:
    one_of(section, "norm_layer", ("pixel_norm",), "pixel_norm")
    one_of(section, "dims", (3,), 3)
    key = "blocks" if nested and "blocks" in section else key
    if not section.get(key):
        raise UserError(f"the checkpoint's metadata lacks the video VAE's '{key}'")
    return tuple(_block(name, params, key, kinds) for name, params in section[key])


def _block(name: str, params: Any, key: str, kinds: Sequence[str]) -> BlockConfig:
    if name not in kinds:
        hint = nearest(name, kinds) or f"; known: {', '.join(kinds)}"
        raise UserError(f"metadata {key}: block kind '{name}' is not supported{hint}")
    params = {"num_layers": params} if isinstance(params, int) else params
    if name == "res_x" and "num_layers" not in params:
        raise UserError(f"metadata {key}: a res_x block lacks 'num_layers'")
    # A plain strided convolution in the encoder keeps the width, as does a decoder upsampler that
    # names no multiplier; the others double it.
    doubles = name == "res_x_y" or name.endswith("_res")
    return BlockConfig(
        kind=name,
        layers=params.get("num_layers", 1),
        multiplier=1 if name == "res_x" else params.get("multiplier", 2 if doubles else 1),
        residual=params.get("residual", False) and name == "compress_all",
        inject_noise=params.get("inject_noise", False),
    )


def _padding(section: dict[str, Any], fallback_key: str, default: str) -> str:
    key = "spatial_padding_mode"
    if key not in section and fallback_key in section:
        key = fallback_key
    return PADDINGS[one_of(section, key, tuple(PADDINGS), default)]


def one_of(section: dict[str, Any], key: str, known: Sequence[Any], default: Any) -> Any:
    """`section[key]`, which must be one of `known`."""
    value = section.get(key, default)
    if value not in known:
        names = ", ".join(str(name) for name in known)
        raise UserError(f"metadata vae {key}={value} is not supported; known: {names}")
    return value
