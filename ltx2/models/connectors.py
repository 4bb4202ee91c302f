"""Text connectors: small transformers that turn text features into contexts (spec text.md 7).

The sequence always has its full length: positions without a token hold learned registers, and
the diffusion transformer attends to those too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.nn.attention import Attention, FeedForward
from ltx2.nn.module import Param
from ltx2.nn.rope import Rope, RopeOptions, index_positions, max_positions, rope_table
from ltx2.ops import Array

SEQUENCE = 1024


@dataclass(frozen=True)
class ConnectorConfig:
    """Architecture of one connector; the defaults of absent keys are those of transformer.md 2."""

    heads: int
    head_dim: int
    layers: int
    registers: int
    gated: bool
    ff_bias: bool
    max_pos: tuple[float, ...]
    split_rope: bool
    float64_grid: bool

    @property
    def width(self) -> int:
        """Channels of features and contexts."""
        return self.heads * self.head_dim

    @property
    def rope(self) -> RopeOptions:
        return RopeOptions(
            dim=self.width,
            heads=self.heads,
            max_pos=self.max_pos,
            split=self.split_rope,
            float64_grid=self.float64_grid,
        )

    @classmethod
    def from_metadata(
        cls, section: Mapping[str, Any], stream: Literal["video", "audio"]
    ) -> ConnectorConfig:
        """From section `transformer` of the metadata; audio falls back to the video values."""

        def value(name: str, default: int) -> int:
            chosen = section.get(f"connector_{name}", default)
            if stream == "audio":
                chosen = section.get(f"audio_connector_{name}", chosen)
            return int(chosen)

        max_pos = max_positions(section.get("connector_positional_embedding_max_pos", [1]))
        if len(max_pos) != 1:
            raise UserError(
                f"connector_positional_embedding_max_pos={list(max_pos)} must have one entry"
            )
        return cls(
            heads=value("num_attention_heads", 30),
            head_dim=value("attention_head_dim", 128),
            layers=value("num_layers", 2),
            registers=int(section.get("connector_num_learnable_registers", 128)),
            gated=bool(section.get("connector_apply_gated_attention", False)),
            ff_bias=bool(section.get("connector_ff_bias", True)),
            max_pos=max_pos,
            split_rope=section.get("rope_type", "split") == "split",
            float64_grid=section.get("frequencies_precision") == "float64",
        )


@dataclass
class ConnectorBlock:
    """Pre-norm attention and feed-forward; the norms have no weight."""

    attn1: Attention
    ff: FeedForward

    @classmethod
    def declare(cls, config: ConnectorConfig) -> ConnectorBlock:
        width = config.width
        attention = Attention.declare(width, width, width, config.heads, config.gated)
        return cls(attention, FeedForward.declare(width, config.ff_bias))

    def __call__(self, x: Array, rope: Rope) -> Array:
        x = x + self.attn1(ops.rms_norm(x), rope=rope)
        return x + self.ff(ops.rms_norm(x))


@dataclass
class Connector:
    """Features of n tokens to the context of a whole sequence."""

    learnable_registers: Array  # (R, C)
    transformer_1d_blocks: list[ConnectorBlock]
    config: ConnectorConfig

    @classmethod
    def declare(cls, config: ConnectorConfig) -> Connector:
        registers = Param((config.registers, config.width))
        blocks = [ConnectorBlock.declare(config) for _ in range(config.layers)]
        return cls(registers, blocks, config)

    def __call__(
        self, features: Array, sequence: int = SEQUENCE, lengths: np.ndarray | None = None
    ) -> Array:
        """Features (B, n, C) of the tokens without padding -> context (B, sequence, C).

        `lengths` (B,): tokens of each sample, which come first; None if all have n.
        """
        x = self._fill(features, sequence)
        if lengths is not None:
            x = self._fill_after(x, lengths)
        rope = rope_table(index_positions(sequence), self.config.rope, x)
        for index, block in enumerate(self.transformer_1d_blocks):
            x = block(x, rope)
            ops.settle(index, x)
        return ops.rms_norm(x)

    def check_sequence(self, sequence: int) -> None:
        """Raise UserError unless registers fill `sequence` positions a whole number of times."""
        if sequence % self.config.registers:
            raise UserError(
                f"a text sequence of {sequence} is not a multiple of the model's"
                f" {self.config.registers} registers"
            )

    def _fill(self, features: Array, sequence: int) -> Array:
        """Append registers, indexed by the absolute position they stand at."""
        self.check_sequence(sequence)
        batch, tokens, width = features.shape
        if tokens == sequence:
            return features
        rows = np.arange(tokens, sequence) % self.config.registers
        registers = ops.take(self.learnable_registers, rows, axis=0)[None]
        filler = ops.broadcast_to(registers, (batch, sequence - tokens, width))
        return ops.concat([features, filler], axis=1)

    def _fill_after(self, x: Array, lengths: np.ndarray) -> Array:
        """Registers at every position (B, S) that is not below its sample's number of tokens."""
        sequence = x.shape[1]
        rows = np.arange(sequence) % self.config.registers
        registers = ops.take(self.learnable_registers, rows, axis=0)[None]
        tokens = np.arange(sequence) < lengths[:, None]
        return ops.where(ops.asarray(tokens[..., None], x), x, registers)
