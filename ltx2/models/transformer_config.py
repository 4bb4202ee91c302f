"""Architecture of the audio-video transformer, read from a checkpoint's metadata.

Source: spec transformer.md section 2. Keys without a default there are required.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ltx2.errors import UserError
from ltx2.nn.rope import RopeOptions, max_positions

# Values that the computation takes for granted; another value means another model.
REQUIRED: dict[str, Any] = {
    "positional_embedding_type": "rope",
    "use_middle_indices_grid": True,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "norm_eps": 1e-6,
    "norm_elementwise_affine": False,
    "cross_attention_norm": True,
    "av_cross_ada_norm": True,
    "use_audio_video_cross_attention": True,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "dropout": 0.0,
    "num_vector_embeds": None,
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "double_self_attention": False,
    "upcast_attention": False,
    "share_ff": False,
}
ROPE_TYPES = ("split", "interleaved")
STREAMS = ("video", "audio")


class CrossRule(Enum):
    """Which noise level modulates the attention between the streams (spec section 15).

    OWN: the stream's own token timesteps. CROSS: the other stream's sigma. MIXED, the current
    rule: own timesteps for scale and shift, the other stream's sigma for the gate.
    """

    OWN = "own"
    CROSS = "cross"
    MIXED = "mixed"


@dataclass(frozen=True)
class StreamConfig:
    """Sizes of one stream. `caption` is the text width before the caption projection."""

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    caption: int
    max_pos: tuple[float, ...]
    ff_bias: bool

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of one transformer; `gated` to `keyframes` tell the generations apart."""

    layers: int
    video: StreamConfig
    audio: StreamConfig
    theta: float
    split_rope: bool
    float64_rope: bool
    timestep_scale: float
    gate_timestep_scale: float
    gated: bool
    text_adaln: bool
    prompt_adaln: bool
    caption_projection: bool
    keyframes: bool
    cross_rule: CrossRule = CrossRule.MIXED

    @classmethod
    def from_metadata(cls, section: Mapping[str, Any]) -> TransformerConfig:
        """From the section `transformer`; raises UserError naming a missing or refused key."""
        _refuse_other_models(section)
        video = _stream(section, "video", _need(section, "in_channels"), 3)
        audio = _stream(section, "audio", int(section.get("audio_in_channels", 128)), 1)
        if video.heads != audio.heads:
            raise UserError(
                f"transformer metadata: audio_num_attention_heads={audio.heads} differs from"
                f" num_attention_heads={video.heads}; the streams cannot attend to each other"
            )
        rope_type = section.get("rope_type", "split")
        if rope_type not in ROPE_TYPES:
            raise UserError(
                f"transformer metadata: rope_type={rope_type} is unknown; expected one of"
                f" {', '.join(ROPE_TYPES)}"
            )
        text_adaln = bool(section.get("cross_attention_adaln", False))
        return cls(
            layers=int(section.get("num_layers", 48)),
            video=video,
            audio=audio,
            theta=float(section.get("positional_embedding_theta", 10000.0)),
            split_rope=rope_type == "split",
            float64_rope=section.get("frequencies_precision") == "float64",
            timestep_scale=float(section.get("timestep_scale_multiplier", 1000)),
            gate_timestep_scale=float(section.get("av_ca_timestep_scale_multiplier", 1)),
            gated=bool(section.get("apply_gated_attention", False)),
            text_adaln=text_adaln,
            prompt_adaln=text_adaln and bool(section.get("use_prompt_adaln_single", True)),
            caption_projection=not section.get("caption_proj_before_connector", False),
            keyframes=bool(section.get("use_keyframes_abs_pos_embedding", False)),
        )

    def stream(self, name: str) -> StreamConfig:
        """The sizes of stream `video` or `audio`."""
        return self.video if name == "video" else self.audio

    def rope(self, name: str) -> RopeOptions:
        """Rotary embedding of self-attention in stream `video` or `audio`."""
        stream = self.stream(name)
        return self._rope(stream.width, stream.max_pos)

    @property
    def cross_rope(self) -> RopeOptions:
        """Rotary embedding of the attention between the streams: time only, audio width."""
        longest = max(self.video.max_pos[0], self.audio.max_pos[0])
        return self._rope(self.audio.width, (longest,))

    def _rope(self, width: int, max_pos: tuple[float, ...]) -> RopeOptions:
        heads = self.video.heads
        return RopeOptions(width, heads, max_pos, self.theta, self.split_rope, self.float64_rope)


def _stream(section: Mapping[str, Any], name: str, in_channels: int, axes: int) -> StreamConfig:
    prefix = "" if name == "video" else "audio_"
    config = StreamConfig(
        heads=_need(section, f"{prefix}num_attention_heads"),
        head_dim=_need(section, f"{prefix}attention_head_dim"),
        in_channels=in_channels,
        out_channels=_need(section, f"{prefix}out_channels"),
        caption=_need(section, "caption_channels"),
        max_pos=_max_pos(section, f"{prefix}positional_embedding_max_pos", axes),
        ff_bias=bool(section.get(f"{prefix}ff_bias", True)),
    )
    # The text context and the rotary embedding between the streams have this width too.
    key = f"{prefix}cross_attention_dim"
    if _need(section, key) != config.width:
        raise UserError(
            f"transformer metadata: {key}={section[key]} differs from the {name} width"
            f" {config.width} ({config.heads} heads of {config.head_dim}); expected both equal"
        )
    return config


def _max_pos(section: Mapping[str, Any], key: str, axes: int) -> tuple[float, ...]:
    values = max_positions(_value(section, key))
    if len(values) != axes:
        raise UserError(
            f"transformer metadata: {key}={list(values)} has {len(values)} entries, expected {axes}"
        )
    return values


def _value(section: Mapping[str, Any], key: str) -> Any:
    if section.get(key) is None:
        raise UserError(
            f"transformer metadata has no '{key}'; the file is incomplete or not an LTX-2 model"
        )
    return section[key]


def _need(section: Mapping[str, Any], key: str) -> int:
    return int(_value(section, key))


def _refuse_other_models(section: Mapping[str, Any]) -> None:
    for key, expected in REQUIRED.items():
        if expected is not None:
            _value(section, key)
        if section.get(key) != expected:
            raise UserError(
                f"transformer metadata: {key}={section.get(key)} is not supported,"
                f" expected {expected}"
            )
