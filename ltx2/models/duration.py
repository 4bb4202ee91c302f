"""Duration head of LTX-2.5: how long a clip the prompt asks for (spec sampling.md section 14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.nn.attention import merge_heads, split_heads
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass(frozen=True)
class DurationConfig:
    """Sizes; `video` and `audio` are the widths of the two contexts."""

    video: int
    audio: int
    width: int
    heads: int
    queries: int
    hidden: int

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> DurationConfig:
        """From the parsed `config` metadata. Raises UserError naming a missing key."""
        try:
            head, transformer = config["duration_head"], config["transformer"]
            return cls(
                video=int(transformer["cross_attention_dim"]),
                audio=int(transformer["audio_cross_attention_dim"]),
                width=int(head["pooler_hidden_dim"]),
                heads=int(head["num_pooler_heads"]),
                queries=int(head["num_queries"]),
                hidden=int(head["mlp_hidden"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the metadata describes no duration head ({type(error).__name__}: {error});"
                " use LTX-2.5's duration head file"
            ) from None


@dataclass
class PackedAttention:
    """Attention whose query, key and value projections stand in one tensor, in this order."""

    in_proj_weight: Array  # (3 C, C)
    in_proj_bias: Array  # (3 C,)
    out_proj: Linear
    heads: int

    @classmethod
    def declare(cls, width: int, heads: int) -> PackedAttention:
        packed = Param((3 * width, width)), Param((3 * width,))
        return cls(*packed, Linear.declare(width, width), heads)

    def __call__(self, queries: Array, tokens: Array) -> Array:
        """(B, Q, C), (B, T, C) -> (B, Q, C)."""
        width = queries.shape[-1]
        q, k, v = (
            split_heads(
                ops.linear(
                    x,
                    self.in_proj_weight[i * width : (i + 1) * width],
                    self.in_proj_bias[i * width : (i + 1) * width],
                ),
                self.heads,
            )
            for i, x in enumerate((queries, tokens, tokens))
        )
        return self.out_proj(merge_heads(ops.attention(q, k, v)))


@dataclass
class AttentionPooler:
    """Learned queries that gather what all tokens say."""

    query_tokens: Array  # (Q, C)
    cross_attn: PackedAttention

    @classmethod
    def declare(cls, config: DurationConfig) -> AttentionPooler:
        queries = Param((config.queries, config.width))
        return cls(queries, PackedAttention.declare(config.width, config.heads))

    def __call__(self, tokens: Array) -> Array:
        """(B, T, C) -> (B, Q*C)."""
        batch = tokens.shape[0]
        shape = (batch, *self.query_tokens.shape)
        pooled = self.cross_attn(ops.broadcast_to(self.query_tokens[None], shape), tokens)
        return pooled.reshape(batch, -1)


@dataclass
class DurationHead:
    """Text contexts to seconds."""

    video_input_proj: Linear
    video_modality_emb: Array  # (C,)
    audio_input_proj: Linear
    audio_modality_emb: Array  # (C,)
    attention_pooler: AttentionPooler
    mlp_hidden: Linear
    mlp_out: Linear

    @classmethod
    def declare(cls, config: DurationConfig) -> DurationHead:
        return cls(
            video_input_proj=Linear.declare(config.video, config.width),
            video_modality_emb=Param((config.width,)),
            audio_input_proj=Linear.declare(config.audio, config.width),
            audio_modality_emb=Param((config.width,)),
            attention_pooler=AttentionPooler.declare(config),
            mlp_hidden=Linear.declare(config.queries * config.width, config.hidden),
            mlp_out=Linear.declare(config.hidden, 1),
        )

    def __call__(self, video: Array | None, audio: Array | None) -> Array:
        """Contexts (B, T, D) and (B, T', D'), one of which may be left out -> seconds (B,)."""
        tokens = []
        if video is not None:
            tokens.append(self.video_input_proj(video) + self.video_modality_emb)
        if audio is not None:
            tokens.append(self.audio_input_proj(audio) + self.audio_modality_emb)
        pooled = self.attention_pooler(ops.concat(tokens, axis=1))
        log_seconds = self.mlp_out(ops.gelu(self.mlp_hidden(pooled)))
        return ops.exp(ops.f32(log_seconds))[..., 0]
