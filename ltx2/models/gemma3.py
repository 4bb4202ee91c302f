"""Gemma 3 text tower, for LTX-2 and LTX-2.3 (spec text.md section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from ltx2 import ops
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.gemma_tower import Embedding, GemmaMLP, GemmaTower, KeyValues, Span
from ltx2.nn.attention import merge_heads, split_heads
from ltx2.nn.layers import Linear
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass
class GemmaNorm:
    """RMS norm in float32 with the factor 1 + weight; the weight stays float32."""

    weight: Array  # (C,), stored minus one
    eps: float

    @classmethod
    def declare(cls, width: int, eps: float) -> GemmaNorm:
        return cls(Param((width,), dtype="fp32"), eps)

    def __call__(self, x: Array) -> Array:
        return ops.like(ops.rms_norm(ops.f32(x), 1 + self.weight, self.eps), x)


@dataclass
class GemmaAttention:
    """Causal attention; neighbouring query heads share a key/value head."""

    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    q_norm: GemmaNorm
    k_norm: GemmaNorm
    heads: int
    kv_heads: int
    scale: float

    @classmethod
    def declare(cls, config: GemmaConfig) -> GemmaAttention:
        inner, shared = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return cls(
            q_proj=Linear.declare(config.hidden, inner, bias=False),
            k_proj=Linear.declare(config.hidden, shared, bias=False),
            v_proj=Linear.declare(config.hidden, shared, bias=False),
            o_proj=Linear.declare(inner, config.hidden, bias=False),
            q_norm=GemmaNorm.declare(config.head_dim, config.eps),
            k_norm=GemmaNorm.declare(config.head_dim, config.eps),
            heads=config.heads,
            kv_heads=config.kv_heads,
            scale=config.query_scalar**-0.5,
        )

    def __call__(self, x: Array, span: Span, cache: KeyValues | None = None) -> Array:
        """(B, T, C) -> (B, T, C). With a filled `cache`, T is 1."""
        q = span.rotate(self.q_norm(split_heads(self.q_proj(x), self.heads)))
        k = span.rotate(self.k_norm(split_heads(self.k_proj(x), self.kv_heads)))
        v = split_heads(self.v_proj(x), self.kv_heads)
        if cache is not None:
            k, v = cache.extend(k, v)
        out = ops.attention(q, k, v, span.bias, span.causal, self.scale)
        return self.o_proj(merge_heads(out))


@dataclass
class GemmaLayer:
    """Attention and MLP, each normalised before and after."""

    input_layernorm: GemmaNorm
    self_attn: GemmaAttention
    post_attention_layernorm: GemmaNorm
    pre_feedforward_layernorm: GemmaNorm
    mlp: GemmaMLP
    post_feedforward_layernorm: GemmaNorm
    kind: str

    @classmethod
    def declare(cls, config: GemmaConfig, kind: str) -> GemmaLayer:
        def norm() -> GemmaNorm:
            return GemmaNorm.declare(config.hidden, config.eps)

        attention = GemmaAttention.declare(config)
        mlp = GemmaMLP.declare(config.hidden, config.intermediate)
        return cls(norm(), attention, norm(), norm(), mlp, norm(), kind)

    def __call__(self, x: Array, span: Span, cache: KeyValues | None = None) -> Array:
        y = self.self_attn(self.input_layernorm(x), span, cache)
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(y)


@dataclass
class Gemma3(GemmaTower):
    """The text tower; its embedding table is the output head as well."""

    @classmethod
    def declare(cls, config: GemmaConfig) -> Gemma3:
        return cls(
            embed_tokens=Embedding.declare(config),
            layers=[GemmaLayer.declare(config, kind) for kind in config.layer_types],
            norm=GemmaNorm.declare(config.hidden, config.eps),
            config=config,
        )
