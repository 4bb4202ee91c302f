"""Distillation: a student does in few steps without guidance what its teacher does with it.

The student stands at the noise levels of its own short schedule and learns the teacher's guided
velocity there, so it needs one pass where the teacher needs two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx2.models.transformer import Transformer
from ltx2.training.flow import Batch, FlowObjective, flow_loss


@dataclass
class DistilObjective:
    """`flow` holds teacher, text and data; only `student`, a copy of the transformer, is trained.

    `sigmas`: the student's schedule without its last 0, `late` those of its second stage, which
    are used for buckets whose `highest` is below one. `cfg`: the teacher's scale, both streams.
    The loss compares the student's velocity with the teacher's guided one; a `real` share of it
    with the true one, which keeps the student's pictures sharp.
    """

    flow: FlowObjective
    student: Transformer
    trained: Sequence[str]
    sigmas: Sequence[float]
    late: Sequence[float]
    cfg: float = 3.0
    real: float = 0.1

    @property
    def modules(self) -> dict[str, Any]:
        return {"student": self.student}

    def trains(self, name: str) -> bool:
        """Tensors of the low-rank additions, or all where `trained` is empty."""
        return not self.trained or any(part in name for part in self.trained)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        bucket = self.flow.data.choose(rng)
        rows = rng.integers(0, len(bucket.scenes), bucket.batch)
        captions = [bucket.caption(row, rng) for row in rows]
        video, audio = self.flow.batch(bucket, rows, "generate", rng)
        levels = np.asarray(self.sigmas if bucket.highest >= 1 else self.late, np.float32)
        sigma = rng.choice(levels, bucket.batch)
        video, audio = at_sigma(video, sigma), at_sigma(audio, sigma)
        with torch.no_grad():
            contexts = self.flow.text(captions, self.flow.transformer)
            empty = self.flow.text([""] * bucket.batch, self.flow.transformer)
            positive = self.flow.velocities(video, audio, contexts)
            negative = self.flow.velocities(video, audio, empty)
        guided = [n + self.cfg * (p - n) for p, n in zip(positive, negative, strict=True)]
        outputs = self.flow.velocities(video, audio, contexts, transformer=self.student)
        losses = []
        for out, target, batch in zip(outputs, guided, (video, audio), strict=True):
            imitation = (out - target).square().mean()
            losses.append((1 - self.real) * imitation + self.real * flow_loss(out, batch))
        total = losses[0] + self.flow.options.audio * losses[1]
        return total, {"video": float(losses[0].detach()), "audio": float(losses[1].detach())}

    def evaluate(self) -> dict[str, float]:
        return {}


def at_sigma(batch: Batch, sigma: np.ndarray) -> Batch:
    """The batch with all its tokens noised to `sigma` (B,)."""
    levels = np.broadcast_to(sigma[:, None], batch.levels.shape)
    return Batch(batch.clean, batch.noise, levels, sigma, batch.positions)
