"""One block of the audio-video transformer and the modulation it receives (spec section 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ltx2 import ops
from ltx2.models.transformer_config import TransformerConfig
from ltx2.nn.attention import Attention, FeedForward, Switch
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.nn.rope import Rope
from ltx2.nn.timestep import TimestepEmbedder
from ltx2.ops import Array


@dataclass(frozen=True)
class Modulation:
    """Rows (U, n, D) of U distinct noise levels; `index` (B, T) or (B, 1) says who gets which.

    Without `index` there is one level and its rows broadcast. Nothing of shape (B, T, n, D) is
    ever made: tokens of a clip share one or two noise levels.
    """

    rows: Array
    index: Array | None = None

    def onto(self, table: Array) -> Modulation:
        """With the learned `table` (n, D) added."""
        return Modulation(table + self.rows, self.index)

    def row(self, k: int) -> Array:
        """Row k as (1, 1, D), (B, 1, D) or (B, T, D)."""
        return self._spread(self.rows[:, k])

    def apply(self, x: Array, scale: int, shift: int) -> Array:
        """x (B, T, D) * (1 + row `scale`) + row `shift`."""
        return ops.multiply_add(x, self._spread(self.rows[:, scale] + 1), self.row(shift))

    def norm(self, x: Array, scale: int, shift: int) -> Array:
        """`apply` to the RMS norm of x, which has no weight."""
        return ops.norm_modulate(x, self.row(scale), self.row(shift))

    def _spread(self, levels: Array) -> Array:
        return levels[None] if self.index is None else ops.take(levels, self.index, 0)


@dataclass
class AdaLayerNormSingle:
    """Noise levels to `count` modulation rows (spec section 7)."""

    emb: TimestepEmbedder
    linear: Linear

    @classmethod
    def declare(cls, width: int, count: int) -> AdaLayerNormSingle:
        return cls(TimestepEmbedder.declare(width), Linear.declare(width, count * width))

    def __call__(self, timesteps: np.ndarray) -> tuple[Array, Array]:
        """Scaled timesteps (U,) -> rows (U, n, D) and the embedding (U, 1, D)."""
        embedded = self.emb(timesteps)
        rows = self.linear(ops.silu(embedded))
        return rows.reshape(rows.shape[0], -1, embedded.shape[-1]), embedded[:, None]


class Crossing(NamedTuple):
    """What one stream brings to the attention between the streams; rows: see `Block._cross`."""

    modulation: Modulation  # four rows
    gate: Modulation  # one row
    rope: Rope


@dataclass(frozen=True)
class Flow:
    """What one stream brings to every block of one forward pass.

    `prompt` is None where the text modulation is static, `crossing` where there is no other stream.
    """

    context: Array  # (B, S, C)
    context_bias: Array | None  # (B, 1, 1, S)
    rope: Rope
    bias: Array | None  # (B, 1, T, T)
    modulation: Modulation
    prompt: Modulation | None = None
    crossing: Crossing | None = None
    enabled: bool = True


class Keep(NamedTuple):
    """Per-sample switches of one block, closed where perturbed; None when nothing is."""

    video_self: Switch | None = None
    audio_self: Switch | None = None
    audio_to_video: Switch | None = None
    video_to_audio: Switch | None = None


class Layers(NamedTuple):
    """The layers of one stream within a block, named as in `Block` without the stream's prefix."""

    attn1: Attention
    attn2: Attention
    ff: FeedForward
    scale_shift_table: Array
    prompt_scale_shift_table: Array | None


PREFIX = {"video": "", "audio": "audio_"}
NOTHING_SKIPPED = Keep()


@dataclass(kw_only=True)
class Block:
    """Self-attention, text attention, attention between the streams, feed-forward."""

    attn1: Attention | None = None
    attn2: Attention | None = None
    ff: FeedForward | None = None
    scale_shift_table: Array | None = None  # (6 or 9, D)
    prompt_scale_shift_table: Array | None = None  # (2, D)
    audio_attn1: Attention | None = None
    audio_attn2: Attention | None = None
    audio_ff: FeedForward | None = None
    audio_scale_shift_table: Array | None = None
    audio_prompt_scale_shift_table: Array | None = None
    audio_to_video_attn: Attention | None = None
    video_to_audio_attn: Attention | None = None
    scale_shift_table_a2v_ca_video: Array | None = None  # (5, D)
    scale_shift_table_a2v_ca_audio: Array | None = None

    @classmethod
    def declare(cls, config: TransformerConfig, streams: tuple[str, ...]) -> Block:
        fields: dict[str, Any] = {}
        for name in streams:
            fields |= _declare_stream(config, name)
        if len(streams) == 2:
            fields |= _declare_crossing(config)
        return cls(**fields)

    def layers(self, stream: str) -> Layers:
        """The layers of stream `video` or `audio`."""
        return Layers(*(getattr(self, PREFIX[stream] + name) for name in Layers._fields))

    def __call__(
        self,
        x: Array | None,
        y: Array | None,
        video: Flow | None,
        audio: Flow | None,
        keep: Keep = NOTHING_SKIPPED,
    ) -> tuple[Array | None, Array | None]:
        """Video x (B, T, C) and audio y (B, T', C') -> the same; None where a stream is absent."""
        if video is not None and video.enabled:
            x = attend(x, video, self.layers("video"), keep.video_self)
        if audio is not None and audio.enabled:
            y = attend(y, audio, self.layers("audio"), keep.audio_self)
        if video is not None and audio is not None:
            x, y = self._cross((x, y), video, audio, keep)
        if video is not None and video.enabled:
            x = feed_forward(x, video, self.layers("video"))
        if audio is not None and audio.enabled:
            y = feed_forward(y, audio, self.layers("audio"))
        return x, y

    def _cross(
        self, states: tuple[Array, Array], video: Flow, audio: Flow, keep: Keep
    ) -> tuple[Array, Array]:
        """Rows: scale and shift towards video, scale and shift towards audio."""
        x, y = states
        video_in, audio_in = video.crossing, audio.crossing
        video_table = self.scale_shift_table_a2v_ca_video
        audio_table = self.scale_shift_table_a2v_ca_audio
        assert self.audio_to_video_attn is not None and self.video_to_audio_attn is not None
        assert video_in is not None and audio_in is not None
        assert video_table is not None and audio_table is not None
        v, a = video_in.modulation.onto(video_table[:4]), audio_in.modulation.onto(audio_table[:4])
        # Both directions read the streams as they are here.
        x0, y0 = x, y
        if video.enabled and _is_open(keep.audio_to_video):
            query, source = v.norm(x0, scale=0, shift=1), a.norm(y0, scale=0, shift=1)
            out = self.audio_to_video_attn(query, source, video_in.rope, audio_in.rope)
            gate = video_in.gate.onto(video_table[4:]).row(0)
            x = ops.multiply_add(out, _switched(gate, keep.audio_to_video), x)
        if audio.enabled and _is_open(keep.video_to_audio):
            query, source = a.norm(y0, scale=2, shift=3), v.norm(x0, scale=2, shift=3)
            out = self.video_to_audio_attn(query, source, audio_in.rope, video_in.rope)
            gate = audio_in.gate.onto(audio_table[4:]).row(0)
            y = ops.multiply_add(out, _switched(gate, keep.video_to_audio), y)
        return x, y


def attend(x: Array, flow: Flow, layers: Layers, keep: Switch | None) -> Array:
    """Self-attention, then attention to the text."""
    m = flow.modulation.onto(layers.scale_shift_table)
    out = layers.attn1(m.norm(x, scale=1, shift=0), rope=flow.rope, bias=flow.bias, keep=keep)
    x = ops.multiply_add(out, m.row(2), x)
    context = flow.context
    if layers.prompt_scale_shift_table is None:
        return x + layers.attn2(ops.rms_norm(x), context, bias=flow.context_bias)
    static = Modulation(layers.prompt_scale_shift_table[None])
    r = static if flow.prompt is None else flow.prompt.onto(layers.prompt_scale_shift_table)
    query = m.norm(x, scale=7, shift=6)
    context = r.apply(context, scale=1, shift=0)
    out = layers.attn2(query, context, bias=flow.context_bias)
    return ops.multiply_add(out, m.row(8), x)


def feed_forward(x: Array, flow: Flow, layers: Layers) -> Array:
    """The modulated and gated feed-forward."""
    m = flow.modulation.onto(layers.scale_shift_table)
    out = layers.ff(m.norm(x, scale=4, shift=3))
    return ops.multiply_add(out, m.row(5), x)


def _is_open(keep: Switch | None) -> bool:
    return keep is None or keep.open


def _switched(gate: Array, keep: Switch | None) -> Array:
    return gate if keep is None else gate * keep.weight


def _declare_stream(config: TransformerConfig, name: str) -> dict[str, Any]:
    stream = config.stream(name)
    width, rows = stream.width, 9 if config.text_adaln else 6
    fields: dict[str, Any] = {
        "attn1": Attention.declare(width, width, width, stream.heads, config.gated),
        "attn2": Attention.declare(width, width, width, stream.heads, config.gated),
        "ff": FeedForward.declare(width, stream.ff_bias),
        "scale_shift_table": Param((rows, width)),
    }
    if config.text_adaln:
        fields["prompt_scale_shift_table"] = Param((2, width))
    return {PREFIX[name] + key: value for key, value in fields.items()}


def _declare_crossing(config: TransformerConfig) -> dict[str, Any]:
    video, audio, heads = config.video.width, config.audio.width, config.video.heads
    return {
        "audio_to_video_attn": Attention.declare(video, audio, audio, heads, config.gated),
        "video_to_audio_attn": Attention.declare(audio, video, audio, heads, config.gated),
        "scale_shift_table_a2v_ca_video": Param((5, video)),
        "scale_shift_table_a2v_ca_audio": Param((5, audio)),
    }
