"""The audio-video diffusion transformer of LTX-2.0, 2.3 and 2.5 (spec transformer.md).

One set of modules; the metadata switches the generations. Whatever is constant over the blocks
(modulation rows, rotary tables, masks) is made once per call or remembered across calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError, nearest
from ltx2.models.transformer_block import (
    NOTHING_SKIPPED,
    PREFIX,
    AdaLayerNormSingle,
    Block,
    Crossing,
    Flow,
    Keep,
    Modulation,
)
from ltx2.models.transformer_config import STREAMS, CrossRule, TransformerConfig
from ltx2.nn.attention import Switch
from ltx2.nn.layers import Linear, linear_gelu
from ltx2.nn.module import Param
from ltx2.nn.rope import Rope, RopeOptions, midpoints, rope_table
from ltx2.ops import Array

Trace = Callable[[str, int, Array | None, Array | None], None]
# Stands for minus infinity: finite in every dtype, and exp(-6e4) is zero in all of them.
BLOCKED = -6e4


@dataclass(frozen=True)
class Stream:
    """Input of one stream. Host arrays must not be changed in place between calls.

    latent (B, T, C); timesteps (B, T) float32, denoise mask times sigma; sigma (B,); positions
    (B, A, T, 2) float32; context (B, S, D) from `Transformer.project_context`; context_mask (B, S),
    integers (1 = visible) or an additive float bias; attention_mask (B, T, T) in [0, 1];
    keyframes_mask (B, T). A stream that is not `enabled` only feeds the other one.
    """

    latent: Array
    timesteps: np.ndarray
    sigma: np.ndarray
    positions: np.ndarray
    context: Array
    context_mask: np.ndarray | None = None
    attention_mask: np.ndarray | None = None
    keyframes_mask: np.ndarray | None = None
    enabled: bool = True


@dataclass(frozen=True)
class Perturbations:
    """Per sample of the batch: pairs of a kind (see `Keep`) and block numbers, None for all."""

    samples: Sequence[Sequence[tuple[str, Sequence[int] | None]]]

    def __post_init__(self) -> None:
        for kind in (kind for sample in self.samples for kind, _ in sample):
            if kind not in Keep._fields:
                known = ", ".join(Keep._fields)
                raise UserError(
                    f"perturbation '{kind}' is unknown; use one of {known}"
                    + nearest(kind, Keep._fields)
                )

    def keep(self, kind: str, block: int) -> np.ndarray | None:
        """(B,) float32, 0 where a sample skips `kind` in `block`; None when none does."""
        skipped = [
            any(k == kind and (blocks is None or block in blocks) for k, blocks in sample)
            for sample in self.samples
        ]
        return 1 - np.asarray(skipped, np.float32) if any(skipped) else None


def denoised(latent: Array, velocity: Array, timesteps: np.ndarray) -> Array:
    """x0 (B, T, C) from per-token timesteps (B, T); float32 inside, dtype of `latent`."""
    t = ops.asarray(np.asarray(timesteps, np.float32)[..., None], latent)
    return ops.like(ops.f32(latent) - ops.f32(velocity) * t, latent)


@dataclass
class CaptionProjection:
    """Text features to the width of a stream: linear_2(gelu(linear_1(x))), first generation."""

    linear_1: Linear
    linear_2: Linear

    @classmethod
    def declare(cls, width: int, out: int) -> CaptionProjection:
        return cls(Linear.declare(width, out), Linear.declare(out, out))

    def __call__(self, x: Array) -> Array:
        return self.linear_2(linear_gelu(self.linear_1, x))


class Side(NamedTuple):
    """The top-level modules of one stream; `cross` and `gate` modulate what it receives."""

    patchify_proj: Linear
    caption_projection: CaptionProjection | None
    adaln_single: AdaLayerNormSingle
    prompt_adaln_single: AdaLayerNormSingle | None
    scale_shift_table: Array
    proj_out: Linear
    cross: AdaLayerNormSingle | None
    gate: AdaLayerNormSingle | None


@dataclass(frozen=True)
class Levels:
    """Distinct noise levels (U,) and, when U > 1, where they belong: (B, T) or (B, 1)."""

    values: np.ndarray
    index: Array | None


class Memory:
    """The device tables made from the last host array seen under each name."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[np.ndarray, Any]] = {}

    def recall(self, name: str, host: np.ndarray, make: Callable[[np.ndarray], Any]) -> Any:
        """`make(host)`, or what it gave last time if `host` is the same as then."""
        known = self._tables.get(name)
        if known is None or not (known[0] is host or np.array_equal(known[0], host)):
            known = self._tables[name] = host, make(host)
        return known[1]


@dataclass(kw_only=True)
class Transformer:
    """Latents, noise levels and text of one or both streams to velocities."""

    config: TransformerConfig
    patchify_proj: Linear | None = None
    caption_projection: CaptionProjection | None = None
    adaln_single: AdaLayerNormSingle | None = None
    prompt_adaln_single: AdaLayerNormSingle | None = None
    scale_shift_table: Array | None = None  # (2, D)
    proj_out: Linear | None = None
    keyframes_abs_pos_embedding: Array | None = None  # (1, D)
    audio_patchify_proj: Linear | None = None
    audio_caption_projection: CaptionProjection | None = None
    audio_adaln_single: AdaLayerNormSingle | None = None
    audio_prompt_adaln_single: AdaLayerNormSingle | None = None
    audio_scale_shift_table: Array | None = None
    audio_proj_out: Linear | None = None
    av_ca_video_scale_shift_adaln_single: AdaLayerNormSingle | None = None
    av_ca_audio_scale_shift_adaln_single: AdaLayerNormSingle | None = None
    av_ca_a2v_gate_adaln_single: AdaLayerNormSingle | None = None
    av_ca_v2a_gate_adaln_single: AdaLayerNormSingle | None = None
    transformer_blocks: list[Block]
    memory: Memory = field(default_factory=Memory, repr=False)
    streamed: bool = False  # the blocks' weights are there only while a block runs
    run_block: Callable[..., Any] = Block.__call__  # or what a backend makes of it

    @classmethod
    def declare(cls, config: TransformerConfig, streams: Sequence[str] = STREAMS) -> Transformer:
        """Placeholders for the given streams; one stream alone leaves out what joins both."""
        streams = tuple(name for name in STREAMS if name in streams)
        fields: dict[str, Any] = {}
        for name in streams:
            fields |= _declare_side(config, name)
        if len(streams) == 2:
            fields |= _declare_crossing(config)
        blocks = [Block.declare(config, streams) for _ in range(config.layers)]
        return cls(config=config, transformer_blocks=blocks, **fields)

    def side(self, name: str) -> Side:
        """The modules of stream `video` or `audio`."""
        gate = {"video": "a2v", "audio": "v2a"}[name]
        fields = [PREFIX[name] + field for field in Side._fields[:6]]
        fields += [f"av_ca_{name}_scale_shift_adaln_single", f"av_ca_{gate}_gate_adaln_single"]
        side = Side(*(getattr(self, field) for field in fields))
        if side.patchify_proj is None:
            raise UserError(f"the transformer was loaded without its {name} stream; load both")
        return side

    def project_context(
        self, video: Array | None, audio: Array | None
    ) -> tuple[Array | None, Array | None]:
        """Text contexts (B, S, .) to the stream widths; constant over steps, so once per prompt."""
        projected = [
            None if context is None else self._project(self.side(name), context)
            for name, context in (("video", video), ("audio", audio))
        ]
        return projected[0], projected[1]

    def __call__(
        self,
        video: Stream | None,
        audio: Stream | None,
        perturbations: Perturbations | None = None,
        trace: Trace | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Velocities (B, T, C) of both streams, None for an absent one.

        `trace` is called as ("block", index, video, audio) with the hidden states after each block.
        """
        x = None if video is None else self._enter("video", video)
        y = None if audio is None else self._enter("audio", audio)
        video_flow, video_embedded = self._prepare("video", video, audio)
        audio_flow, audio_embedded = self._prepare("audio", audio, video)
        for i, block in enumerate(self.transformer_blocks):
            keep = NOTHING_SKIPPED if perturbations is None else self._keep(perturbations, i, x, y)
            x, y = self.run_block(block, x, y, video_flow, audio_flow, keep)
            states = [a for a in (x, y) if a is not None]
            ops.evaluate(*states) if self.streamed else ops.settle(i, *states)
            if trace is not None:
                trace("block", i, x, y)
        return self._leave("video", x, video_embedded), self._leave("audio", y, audio_embedded)

    @staticmethod
    def _project(side: Side, context: Array) -> Array:
        context = ops.like(context, side.patchify_proj.weight)
        return context if side.caption_projection is None else side.caption_projection(context)

    def _enter(self, name: str, stream: Stream) -> Array:
        side = self.side(name)
        x = side.patchify_proj(ops.like(stream.latent, side.patchify_proj.weight))
        marker = self.keyframes_abs_pos_embedding
        if name == "video" and marker is not None and stream.keyframes_mask is not None:
            marked = (stream.keyframes_mask > 0).astype(np.float32)[..., None]
            x = x + ops.like(ops.asarray(marked, x), x) * marker
        return x

    def _prepare(
        self, name: str, stream: Stream | None, other: Stream | None
    ) -> tuple[Flow | None, Modulation | None]:
        """What the blocks get for one stream, and the embedded timesteps for its output head."""
        if stream is None:
            return None, None
        side, scale = self.side(name), self.config.timestep_scale
        weight = side.patchify_proj.weight
        own = levels(scale_timesteps(stream.timesteps, scale), weight)
        sigma = levels(scale_timesteps(stream.sigma, scale)[:, None], weight)
        rows, embedded = side.adaln_single(own.values)
        prompt = side.prompt_adaln_single
        flow = Flow(
            context=stream.context,
            context_bias=self._context_bias(name, stream.context_mask, weight),
            rope=self._rope(name, stream.positions, self.config.rope(name), weight),
            bias=self._mask_bias(name, stream.attention_mask, weight),
            modulation=Modulation(rows, own.index),
            prompt=None if prompt is None else _modulation(prompt, sigma),
            crossing=None if other is None else self._crossing(name, stream, other, own),
            enabled=stream.enabled,
        )
        return flow, Modulation(embedded, own.index)

    def _keep(
        self, perturbations: Perturbations, block: int, x: Array | None, y: Array | None
    ) -> Keep:
        """All four kinds in `block`; from block to block they are mostly the same."""

        def make(host: np.ndarray) -> Switch:
            return Switch.of(host, y if x is None else x)

        hosts = {kind: perturbations.keep(kind, block) for kind in Keep._fields}
        made = {
            kind: self.memory.recall(f"keep {kind}", host, make)
            for kind, host in hosts.items()
            if host is not None
        }
        return Keep(**made)

    def _crossing(self, name: str, stream: Stream, other: Stream, own: Levels) -> Crossing:
        side, config = self.side(name), self.config
        if side.cross is None or side.gate is None:
            raise UserError("the transformer was loaded with one stream; load both to join them")
        weight = side.patchify_proj.weight
        theirs = scale_timesteps(other.sigma, config.timestep_scale)[:, None]
        ours = scale_timesteps(stream.timesteps, config.timestep_scale)
        source = ours if config.cross_rule is CrossRule.OWN else theirs
        factor = config.gate_timestep_scale / config.timestep_scale
        level = levels(theirs, weight) if config.cross_rule is CrossRule.CROSS else own
        return Crossing(
            modulation=_modulation(side.cross, level),
            gate=_modulation(side.gate, levels(scale_timesteps(source, factor), weight)),
            rope=self._rope(f"{name} time", stream.positions[:, :1], config.cross_rope, weight),
        )

    def _leave(self, name: str, x: Array | None, embedded: Modulation | None) -> Array | None:
        if x is None or embedded is None:
            return None
        side = self.side(name)
        m = embedded.onto(side.scale_shift_table)
        return side.proj_out(m.apply(ops.layer_norm(x), scale=1, shift=0))

    def _rope(self, use: str, positions: np.ndarray, options: RopeOptions, weight: Array) -> Rope:
        def make(host: np.ndarray) -> Rope:
            return rope_table(midpoints(host), options, weight)

        return self.memory.recall(f"rope {use}", one_if_equal(positions), make)

    def _mask_bias(self, name: str, mask: np.ndarray | None, weight: Array) -> Array | None:
        def make(host: np.ndarray) -> Array:
            logs = np.log(np.maximum(host, np.finfo(np.float32).tiny), dtype=np.float32)
            bias = np.where(host > 0, logs, np.float32(BLOCKED))
            return ops.like(ops.asarray(bias[:, None], weight), weight)

        if mask is None:
            return None
        return self.memory.recall(f"mask {name}", one_if_equal(mask), make)

    def _context_bias(self, name: str, mask: np.ndarray | None, weight: Array) -> Array | None:
        def make(host: np.ndarray) -> Array:
            bias = host if host.dtype.kind == "f" else np.where(host > 0, 0.0, BLOCKED)
            bias = np.maximum(bias.astype(np.float32), np.float32(BLOCKED))
            return ops.like(ops.asarray(bias[:, None, None], weight), weight)

        return None if mask is None else self.memory.recall(f"text {name}", mask, make)


def scale_timesteps(timesteps: np.ndarray, scale: float) -> np.ndarray:
    """Host timesteps times the multiplier, in float32."""
    return np.asarray(timesteps, np.float32) * np.float32(scale)


def levels(timesteps: np.ndarray, ref: Array) -> Levels:
    """The distinct values of (B, T) host timesteps; the embedders run once for each."""
    if (timesteps == timesteps[:, :1]).all():
        timesteps = timesteps[:, :1]
    values, index = np.unique(timesteps, return_inverse=True)
    if len(values) == 1:
        return Levels(values, None)
    return Levels(values, ops.asarray(index.reshape(timesteps.shape).astype(np.int32), ref))


def one_if_equal(host: np.ndarray) -> np.ndarray:
    """The first sample alone (1, ...) when all samples are equal; it broadcasts."""
    return host[:1] if len(host) > 1 and (host == host[:1]).all() else host


def _modulation(embedder: AdaLayerNormSingle, noise: Levels) -> Modulation:
    return Modulation(embedder(noise.values)[0], noise.index)


def _declare_side(config: TransformerConfig, name: str) -> dict[str, Any]:
    stream = config.stream(name)
    width = stream.width
    fields: dict[str, Any] = {
        "patchify_proj": Linear.declare(stream.in_channels, width),
        "adaln_single": AdaLayerNormSingle.declare(width, 9 if config.text_adaln else 6),
        "scale_shift_table": Param((2, width)),
        "proj_out": Linear.declare(width, stream.out_channels),
    }
    if config.caption_projection:
        fields["caption_projection"] = CaptionProjection.declare(stream.caption, width)
    if config.prompt_adaln:
        fields["prompt_adaln_single"] = AdaLayerNormSingle.declare(width, 2)
    if config.keyframes and name == "video":
        fields["keyframes_abs_pos_embedding"] = Param((1, width))
    return {PREFIX[name] + key: value for key, value in fields.items()}


def _declare_crossing(config: TransformerConfig) -> dict[str, Any]:
    video, audio = config.video.width, config.audio.width
    return {
        "av_ca_video_scale_shift_adaln_single": AdaLayerNormSingle.declare(video, 4),
        "av_ca_audio_scale_shift_adaln_single": AdaLayerNormSingle.declare(audio, 4),
        "av_ca_a2v_gate_adaln_single": AdaLayerNormSingle.declare(video, 1),
        "av_ca_v2a_gate_adaln_single": AdaLayerNormSingle.declare(audio, 1),
    }
