"""A tiny training for tests, in a process of its own that can be killed: FOLDER STEPS [PAUSE]."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx2.nn.layers import Linear
from ltx2.training.parameters import initialise
from ltx2.training.schedule import Schedule
from ltx2.training.trainer import OptimiserOptions, Trainer, TrainOptions


class Doubling:
    """A layer that learns to double what it is given; from step `bad_from` its loss is NaN."""

    def __init__(self, bad_from: int = 10**9, width: int = 4) -> None:
        self.net = initialise(Linear.declare(width, width), 0)
        self.fixed = initialise(Linear.declare(width, width), 1)
        self.bad_from, self.width = bad_from, width

    @property
    def modules(self) -> dict[str, Any]:
        return {"net": self.net, "fixed": self.fixed}

    def trains(self, name: str) -> bool:
        return name.startswith("net.")

    def loss(self, step: int, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.standard_normal((8, self.width), np.float32))
        x = x + 0.1 * torch.randn(x.shape)  # torch's own chance is part of the state, too
        x = x.to(self.net.weight.dtype)
        loss = (self.net(x) - 2 * x).float().square().mean()
        return (loss * float("nan") if step >= self.bad_from else loss), {}

    def evaluate(self) -> dict[str, float]:
        return {"weight": float(self.net.weight.float().mean())}


def trainer(folder: Path, steps: int, dtype: str = "fp32", **options: Any) -> Trainer:
    """Saves every 5 steps."""
    given = TrainOptions(steps, dtype, average=0.9, log_every=1, save_every=5, evaluate_every=50)
    schedule, optimiser = Schedule(warmup=3), OptimiserOptions(lr=0.05)
    return Trainer(Doubling(**options), schedule, optimiser, given, folder, fingerprint="doubling")


def main() -> None:
    """Tell every step on stdout."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    torch.set_num_threads(1)
    made = trainer(folder, steps)

    def report(step: int, figures: dict[str, float]) -> None:
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()
        time.sleep(pause)

    made.report = report
    made.run()


if __name__ == "__main__":
    main()
