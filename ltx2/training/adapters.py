"""Training of a LoRA, or of a whole transformer, that begins with a finished model.

With reference latents it is an in-context LoRA (IC-LoRA): clean tokens of a control video stand
behind the noisy ones at the same positions, as the pipelines append them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx2.errors import UserError
from ltx2.models.transformer import Transformer
from ltx2.nn.layers import Linear
from ltx2.nn.lora import LoraLinear
from ltx2.nn.module import slots
from ltx2.nn.quant import QuantisedLinear
from ltx2.training.export import write_changed, write_lora
from ltx2.training.flow import Batch, FlowObjective, flow_loss
from ltx2.training.latents import Bucket
from ltx2.weights.header import Header

FACTORS = (".down", ".up")
FILE, WHOLE = "lora.safetensors", "model.safetensors"


@dataclass(frozen=True)
class ClipBucket(Bucket):
    """Clips with a caption of their own each, and maybe reference latents (N, F, H, W, C)."""

    captions: Sequence[str] = ()
    reference: np.ndarray | None = None

    def caption(self, row: int, rng: np.random.Generator, full: bool = False) -> str:
        """The clip's own caption, or that of its scene."""
        return self.captions[row] if self.captions else super().caption(row, rng, full)

    def references(self, index: np.ndarray) -> np.ndarray | None:
        """Tokens (B, T, C) of the clips `index`."""
        if self.reference is None:
            return None
        chosen = self.reference[index].astype(np.float32)
        return chosen.reshape(len(index), -1, chosen.shape[-1])


def add_adapters(transformer: Transformer, rank: int, layers: Sequence[str], seed: int = 0) -> int:
    """Put low-rank additions beside linear layers whose name holds one of `layers`; how many.

    They begin as nothing: `up` is 0. Raises UserError if no layer fits.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [s for s in slots(transformer) if isinstance(s.value, Linear | QuantisedLinear)]
    chosen = [s for s in found if any(part in s.name for part in layers)]
    if not chosen:
        raise UserError(
            f"objective.layers={list(layers)} fits none of the {len(found)} linear layers, such as"
            f" '{found[0].name}'"
        )
    for slot in chosen:
        out, width = slot.value.weight.shape
        down = torch.randn(rank, width, generator=generator) / math.sqrt(width)
        slot.replace(LoraLinear(slot.value, down, torch.zeros(out, rank)))
    return len(chosen)


def factors_of(transformer: Transformer) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up by layer, as `write_lora` takes them."""
    return {
        slot.name: (slot.value.down, slot.value.up)
        for slot in slots(transformer)
        if isinstance(slot.value, LoraLinear)
    }


@dataclass
class AdaptObjective:
    """`flow` holds the finished model and the data; what is trained is all low-rank additions.

    Without any (`rank` 0) every tensor of the transformer is. `facts` go into the LoRA's file;
    `header` is that of the checkpoint that was begun with, if it was one.
    """

    flow: FlowObjective
    facts: Mapping[str, str] = field(default_factory=dict)
    header: Header | None = None

    @property
    def modules(self) -> dict[str, Any]:
        return {"transformer": self.flow.transformer}

    @property
    def is_lora(self) -> bool:
        """Whether low-rank additions are trained, not the layers themselves."""
        return bool(factors_of(self.flow.transformer))

    def trains(self, name: str) -> bool:
        return not self.is_lora or name.endswith(FACTORS)

    def keeps(self, name: str) -> bool:
        """The finished model is not a part of the state."""
        return False

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        bucket, options = self.flow.data.choose(rng), self.flow.options
        rows = rng.integers(0, len(bucket.scenes), bucket.batch)
        captions = [
            "" if rng.random() < options.dropout else bucket.caption(int(row), rng) for row in rows
        ]
        names, shares = list(options.tasks), np.array(list(options.tasks.values()))
        task = str(rng.choice(names, p=shares / shares.sum()))
        losses = self._losses(bucket, rows, captions, task, rng)
        total = losses["video"] + options.audio * losses["audio"]
        return total, {name: float(value.detach()) for name, value in losses.items()}

    def evaluate(self) -> dict[str, float]:
        """Flow losses on held-out clips with fixed noise."""
        rng, found = np.random.default_rng(0), []
        for bucket in self.flow.held_out.buckets:
            rows = np.arange(min(bucket.batch, len(bucket.scenes)))
            captions = [bucket.caption(int(row), rng, full=True) for row in rows]
            found.append(self._losses(bucket, rows, captions, "generate", rng))
        return {n: float(np.mean([float(f[n]) for f in found])) for n in ("video", "audio")}

    def export(self, folder: Path) -> None:
        """The LoRA's file, or that of the changed checkpoint, beside the state."""
        if self.is_lora:
            factors = factors_of(self.flow.transformer)
            write_lora(folder / FILE, factors, metadata=dict(self.facts))
        elif self.header is not None:
            write_changed(folder / WHOLE, self.header, self.flow.transformer)

    def _losses(
        self, bucket: Bucket, rows: np.ndarray, captions: list[str], task: str, rng: Any
    ) -> dict[str, Tensor]:
        video, audio = self.flow.batch(bucket, rows, task, rng)
        tokens = bucket.references(rows) if isinstance(bucket, ClipBucket) else None
        if tokens is not None:
            video = with_reference(video, tokens)
        contexts = self.flow.text(captions, self.flow.transformer)
        outputs = self.flow.velocities(video, audio, contexts)
        return {"video": flow_loss(outputs[0], video), "audio": flow_loss(outputs[1], audio)}


def with_reference(video: Batch, tokens: np.ndarray) -> Batch:
    """The batch with clean `tokens` (B, T, C) behind its own, at the same positions."""

    def joined(own: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([own, more], 1)

    return replace(
        video,
        clean=joined(video.clean, tokens),
        noise=joined(video.noise, np.zeros_like(tokens)),
        levels=joined(video.levels, np.zeros(tokens.shape[:2], np.float32)),
        positions=np.concatenate([video.positions, video.positions], 2),
    )
