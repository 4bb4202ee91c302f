"""The training loop: one objective, AdamW, clipping, averaging, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ltx2.errors import UserError
from ltx2.nn.module import Slot
from ltx2.training.checkpoint import (
    LATEST,
    load_state,
    random_state,
    restore_random_state,
    save_state,
)
from ltx2.training.parameters import Average, Leaves, tensors
from ltx2.training.peers import Peers
from ltx2.training.schedule import Schedule

log = logging.getLogger(__name__)

# So many steps in a row without a finite loss end the run.
PATIENCE = 3


class Objective(Protocol):
    """What is trained, and what for."""

    @property
    def modules(self) -> dict[str, Any]:
        """The modules whose tensors are trained or saved, by name."""
        ...

    def trains(self, name: str) -> bool:
        """Whether the tensor `name` (module, dot, name in the file) is trained."""
        ...

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a fresh batch, and figures to log. All chance comes from `rng`."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights."""
        ...


@dataclass(frozen=True)
class TrainOptions:
    """`clip`: largest norm of the gradient. `every`: steps between logs, evaluations, states."""

    steps: int
    dtype: str = "fp32"
    clip: float = 1.0
    average: float = 0.999
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 200


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW; decay acts on matrices only."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    eps: float = 1e-8


@dataclass
class Trainer:
    """Trains an objective in `folder`; an interrupted run goes on with the same command."""

    objective: Objective
    schedule: Schedule
    optimiser: OptimiserOptions
    options: TrainOptions
    folder: Path
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    fingerprint: str = ""  # of the configuration: another one does not resume
    peers: Peers = field(default_factory=Peers)
    stop: Callable[[], bool] = lambda: False  # asked after every step
    step: int = 0
    seconds: float = 0.0
    _bad: int = 0
    _sums: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The first worker draws what a single one would.
        seed = self.options.seed
        rank = self.peers.rank
        self.rng = np.random.default_rng([seed, rank] if rank else seed)
        torch.manual_seed(seed)
        trains = self.objective.trains
        self.leaves = Leaves.of(self.objective.modules, self.options.dtype, trains)
        self.average = Average.of(self.leaves, self.options.average)
        named = self.leaves.masters
        matrices = [x for x in named.values() if x.ndim > 1]
        vectors = [x for x in named.values() if x.ndim <= 1]
        o = self.optimiser
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, o.lr, o.betas, o.eps, o.weight_decay)
        if (self.folder / LATEST).exists():
            self.resume(self.folder / LATEST)

    def run(self) -> None:
        """Train to the last step; the state is saved on the way and at the end.

        Raises KeyboardInterrupt, with the state saved, once `stop` says so.
        """
        begun = time.perf_counter()
        while self.step < self.options.steps:
            self._one_step()
            self.seconds, begun = self.seconds + time.perf_counter() - begun, time.perf_counter()
            last = self.step == self.options.steps
            stopped = self.peers.any(self.stop())
            if (self.step % self.options.evaluate_every == 0 or last) and self.peers.leads:
                self._evaluate()
            if self.step % self.options.save_every == 0 or last or stopped:
                self.save()
            if stopped and not last:
                raise KeyboardInterrupt

    def _one_step(self) -> None:
        rate = self.optimiser.lr * self.schedule(self.step, self.options.steps)
        for group in self.adam.param_groups:
            group["lr"] = rate
        loss, figures = self.objective.loss(self.step, self.rng)
        value = float(loss.detach())
        if self.peers.any(not math.isfinite(value)):
            self._unfit(f"the loss is {value}")
            return
        loss.backward()
        gradients = self.leaves.collect(complete=self.peers.count > 1)
        self.peers.average([x.grad for x in gradients if x.grad is not None])
        norm = float(torch.nn.utils.clip_grad_norm_(gradients, self.options.clip))
        if not math.isfinite(norm):
            self._unfit(f"the gradient's norm is {norm}")
            return
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.leaves.publish()
        self.step, self._bad = self.step + 1, 0
        self.average.update(self.leaves, self.step)
        self._note(figures | {"loss": value, "gradient_norm": norm, "lr": rate})

    def _unfit(self, what: str) -> None:
        self._bad += 1
        self.adam.zero_grad(set_to_none=True)
        for working in self.leaves.working.values():
            working.grad = None
        if self._bad >= PATIENCE:
            raise UserError(
                f"training stopped at step {self.step}: {what} {PATIENCE} times in a row; the"
                f" state of the last save is in {self.folder / LATEST}; lower optimiser.lr"
            )
        log.warning("step %d: %s; the batch is skipped", self.step, what)

    def _note(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        if self.step % self.options.log_every == 0 and self.peers.leads:
            means = {name: float(np.mean(values)) for name, values in self._sums.items()}
            self._sums.clear()
            self.report(self.step, means | {"seconds": round(self.seconds, 1)})

    def _evaluate(self) -> None:
        with self.averaged(), torch.no_grad():
            figures = self.objective.evaluate()
        self.report(self.step, {f"eval/{name}": value for name, value in figures.items()})

    @contextlib.contextmanager
    def averaged(self) -> Any:
        """Within this context the modules compute with the averaged weights."""
        kept = {name: x.detach().clone() for name, x in self.leaves.working.items()}
        with torch.no_grad():
            for name, x in self.leaves.working.items():
                x.copy_(self.average.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, x in self.leaves.working.items():
                    x.copy_(kept[name])

    def save(self) -> None:
        """Write the state: masters, averages, moments, what is not trained, chance."""
        random = self.peers.gather(random_state(self.rng))
        if not self.peers.leads:
            return
        stored = {f"master.{n}": x for n, x in self.leaves.masters.items()}
        stored |= {f"average.{n}": x for n, x in self.average.values.items()}
        stored |= {f"frozen.{n}": slot.value for n, slot in self._frozen()}
        for name, x in self.leaves.masters.items():
            for key, value in self.adam.state.get(x, {}).items():
                stored[f"{key}.{name}"] = value
        extra: dict[str, Tensor] = getattr(self.objective, "state", dict)()
        stored |= {f"objective.{n}": x for n, x in extra.items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
            "random": random,
        }
        save_state(self.folder / LATEST, stored, facts)

    def _frozen(self) -> Iterator[tuple[str, Slot]]:
        """What belongs to the modules and is not trained, such as statistics.

        An objective may leave out what it can get elsewhere (`keeps`).
        """
        named = tensors(self.objective.modules)
        keeps: Callable[[str], bool] = getattr(self.objective, "keeps", lambda name: True)
        masters = self.leaves.masters
        return ((name, slot) for name, slot in named if name not in masters and keeps(name))

    def resume(self, path: Path) -> None:
        """Go on from a saved state. Raises UserError if it is not this run's."""
        state, facts = load_state(path)
        if facts["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{path} belongs to another configuration; use its own, or another folder"
            )
        self._adopt(state, path)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self._restore_chance(facts["random"])
        log.info("resumed from step %d of %s", self.step, path)

    def _restore_chance(self, states: list[dict[str, Any]]) -> None:
        if len(states) == self.peers.count:
            restore_random_state(self.rng, states[self.peers.rank])
            return
        log.warning(
            "the state is of %d workers, these are %d: chance begins anew",
            len(states), self.peers.count,
        )  # fmt: skip
        self.rng = np.random.default_rng([self.options.seed, self.peers.rank, self.step])

    @torch.no_grad()
    def _adopt(self, state: dict[str, Tensor], path: Path) -> None:
        for name, x in self.leaves.masters.items():
            stored = state.get(f"master.{name}")
            if stored is None or stored.shape != x.shape:
                raise UserError(f"{path} does not hold '{name}' of shape {list(x.shape)}")
            x.copy_(stored)
            self.average.values[name].copy_(state[f"average.{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            if f"exp_avg.{name}" in state:
                self.adam.state[x] = {key: state[f"{key}.{name}"].clone() for key in moments}
        for name, slot in self._frozen():
            if f"frozen.{name}" in state:
                slot.value.copy_(state[f"frozen.{name}"])
        prefix = "objective."
        extra = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
        if extra:
            self.objective.restore(extra)  # type: ignore[attr-defined]
        self.leaves.publish()
