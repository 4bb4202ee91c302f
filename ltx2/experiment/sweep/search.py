"""Search by Optuna over the swept values: asks for cells in batches, tells it their metrics.

The study is a sqlite file in the sweep's folder, so that running the same search again goes on
where it stopped. Knows neither Hydra nor how a cell is run: `run_batch` does that.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.errors import UserError, nearest

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

STUDY = "study.sqlite"
SAMPLERS = ("tpe", "random", "grid", "nsga2")
DIRECTIONS = ("minimize", "maximize")
_FAILED = "failed"
# One list of overrides per cell -> its metrics, or None when it failed; the same order.
RunBatch = Callable[[list[list[str]]], Sequence[dict[str, float] | None]]


@dataclass(frozen=True)
class Choices:
    """A swept key with values in no order, as they would be written in an override."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """A swept key with numbers `low` to `high`, both included; `log` searches their logarithm.

    Whole numbers when `low` is an int; without `step` every number between.
    """

    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False


Axis = Choices | Numbers


@dataclass(frozen=True)
class Goal:
    """What is searched for: one direction per metric, in `trials` cells, `batch` at a time."""

    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    trials: int
    sampler: str = "tpe"
    seed: int = 0
    batch: int = 1


@dataclass(frozen=True)
class Trial:
    """A cell that the search has tried. `metrics` is empty when it failed."""

    number: int
    overrides: list[str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Found:
    """`best` has one trial for one metric, the Pareto front for several (best first metric first).

    `failed` counts cells without the metrics, `missing` what is left of the goal's trials.
    """

    best: list[Trial]
    completed: int
    failed: int
    missing: int

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def check_goal(goal: Goal, axes: Sequence[Axis], computed: Sequence[str]) -> None:
    """Raise UserError for a goal that no trial could reach; `computed` are the known metrics."""
    if goal.sampler not in SAMPLERS:
        hint = nearest(goal.sampler, SAMPLERS)
        raise UserError(
            f"sweep.optimize.sampler={goal.sampler} is unknown{hint}; use {', '.join(SAMPLERS)}"
        )
    if not goal.metrics:
        raise UserError("sweep.optimize.metrics is empty; name what to optimize, as in [flicker]")
    for name in goal.metrics:
        if name not in computed:
            raise UserError(
                f"sweep.optimize.metrics={name} is not computed{nearest(name, computed)};"
                f" computed: {', '.join(sorted(computed))} (metrics=[...] adds more)"
            )
    pairs = zip(goal.metrics, goal.directions, strict=False)
    for name in (name for name, direction in pairs if not direction):
        raise UserError(
            f"{name}: neither more nor less is better; say which, as"
            " sweep.optimize.directions=[minimize]"
        )
    wrong = [name for name in goal.directions if name not in DIRECTIONS]
    if wrong or len(goal.directions) != len(goal.metrics):
        raise UserError(
            f"sweep.optimize.directions={_listed(goal.directions)} does not give each of"
            f" {_listed(goal.metrics)} a direction: minimize or maximize"
        )
    for key, value in (("trials", goal.trials), ("batch", goal.batch)):
        if value < 1:
            raise UserError(f"sweep.optimize.{key}={value} is not 1 or more")
    if not axes:
        raise UserError("sweep.optimize needs something to search: seed=range(100), cfg=interval()")
    if goal.sampler == "grid":
        for axis in axes:
            grid_values(axis)


def search(
    axes: Sequence[Axis],
    goal: Goal,
    study: Path,
    run_batch: RunBatch,
    max_failures: int | None = None,
) -> Found:
    """Try cells until `goal.trials` are complete, counting those of earlier calls; what was found.

    A failed cell is a failed trial; it is not replaced in this call, but by the next one, and
    `max_failures` of them end this call. Trials that were running when the process ended are tried
    first. A search in several calls tries what one call would have tried. Raises UserError when
    `study` is of another search.
    """
    optuna = _optuna()
    store = _Store(optuna, axes, goal, study)
    store.retry_lost()
    budget, failures = goal.trials - store.count("COMPLETE"), 0
    while budget > 0 and (max_failures is None or failures < max_failures):
        trials = store.ask(min(goal.batch, budget))
        if not trials:
            break
        results = run_batch([store.overrides(trial.params) for trial in trials])
        assert len(results) == len(trials)
        for trial, metrics in zip(trials, results, strict=True):
            failures += not store.tell(trial, metrics)
        budget -= len(trials)
    return store.found()


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("sweep.optimize needs optuna; pip install 'ltx2[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    return optuna


class _Store:
    """The study in its file, in terms of axes and overrides."""

    def __init__(self, optuna: Any, axes: Sequence[Axis], goal: Goal, path: Path) -> None:
        self.optuna, self.axes, self.goal = optuna, axes, goal
        self.study: Study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name="search",
            directions=list(goal.directions),
            load_if_exists=True,
        )
        self._check_same(path)
        if goal.sampler == "grid":
            self._enqueue_grid()

    def _check_same(self, path: Path) -> None:
        """Refuse to mix two searches in one file; only the number of trials may change."""
        own = asdict(self.goal)
        for key in ("trials", "batch"):
            del own[key]
        described = json.dumps({"axes": [asdict(axis) for axis in self.axes], "goal": own})
        before = self.study.user_attrs.setdefault("search", described)
        if before != described:
            raise UserError(f"{path} belongs to another search; choose another sweep.name")
        self.study.set_user_attr("search", described)

    def count(self, state: str) -> int:
        """Trials in this state of Optuna's."""
        return sum(t.state.name == state for t in self.study.get_trials(deepcopy=False))

    def retry_lost(self) -> None:
        """Queue again what was running when the process was killed."""
        for trial in self.study.get_trials():
            if trial.state.name != "RUNNING":
                continue
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            self.study.enqueue_trial(trial.params)

    def _enqueue_grid(self) -> None:
        tried = [self._tried(trial) for trial in self.study.get_trials(deepcopy=False)]
        keys = [axis.key for axis in self.axes]
        for values in itertools.product(*(grid_values(axis) for axis in self.axes)):
            params = dict(zip(keys, values, strict=True))
            if params not in tried:
                self.study.enqueue_trial(params)

    def _tried(self, trial: FrozenTrial) -> dict[str, Any]:
        queued = trial.system_attrs.get("fixed_params", {})
        return dict(trial.params or queued)

    def ask(self, count: int) -> list[Any]:
        """The next trials; fewer, or none, at the end of a grid."""
        space = {axis.key: self._distribution(axis) for axis in self.axes}
        trials = []
        for _ in range(count):
            if self.goal.sampler == "grid" and not self.count("WAITING"):
                break
            number = len(self.study.get_trials(deepcopy=False))
            # A seed of its own for every trial: a resumed search asks what this one would.
            self.study.sampler = self._sampler(_seed(self.goal.seed, number))
            trials.append(self.study.ask(space))
        return trials

    def _sampler(self, seed: int) -> Any:
        samplers = self.optuna.samplers
        if self.goal.sampler == "tpe":
            # The liar keeps the cells of one batch apart.
            return samplers.TPESampler(seed=seed, constant_liar=self.goal.batch > 1)
        if self.goal.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _distribution(self, axis: Axis) -> BaseDistribution:
        distributions = self.optuna.distributions
        if isinstance(axis, Choices):
            return distributions.CategoricalDistribution(axis.values)
        if isinstance(axis.low, int):
            step = axis.step or 1
            return distributions.IntDistribution(axis.low, axis.high, log=axis.log, step=step)
        return distributions.FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)

    def tell(self, trial: Any, metrics: dict[str, float] | None) -> bool:
        """Whether the trial is complete: every metric is a number."""
        values = [math.nan if metrics is None else metrics.get(k) for k in self.goal.metrics]
        numbers = [math.nan if value is None else float(value) for value in values]
        if all(map(math.isfinite, numbers)):
            self.study.tell(trial, numbers)
            return True
        trial.set_user_attr(_FAILED, True)  # unlike one that was lost with its process
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        if metrics is not None:
            told = ", ".join(f"{k} {v}" for k, v in zip(self.goal.metrics, values, strict=True))
            log.warning("trial %d counts as failed: %s", trial.number, told)
        return False

    def overrides(self, params: dict[str, Any]) -> list[str]:
        return [f"{axis.key}={text_of(params[axis.key])}" for axis in self.axes]

    def found(self) -> Found:
        completed = self.count("COMPLETE")
        best = self.study.best_trials if completed else []
        if len(self.goal.metrics) == 1:
            best = best[:1]  # equal values: the first that had them
        sign = 1 if self.goal.directions[0] == "minimize" else -1
        best = sorted(best, key=lambda trial: sign * trial.values[0])
        return Found(
            best=[self._trial(trial) for trial in best],
            completed=completed,
            failed=sum(_FAILED in t.user_attrs for t in self.study.get_trials(deepcopy=False)),
            missing=max(0, self.goal.trials - completed),
        )

    def _trial(self, trial: FrozenTrial) -> Trial:
        metrics = dict(zip(self.goal.metrics, trial.values or [], strict=True))
        return Trial(trial.number, self.overrides(trial.params), metrics)


def _seed(*parts: int) -> int:
    # Hashed: the first numbers drawn from neighbouring seeds are alike.
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def grid_values(axis: Axis) -> list[Any]:
    """All values of an axis. Raises UserError for an interval."""
    if isinstance(axis, Choices):
        return list(axis.values)
    if axis.step is None:
        raise UserError(
            f"{axis.key}: sampler=grid needs a list or range instead of an interval; or use tpe"
        )
    count = math.floor((axis.high - axis.low) / axis.step + 1e-9) + 1
    return [axis.low + i * axis.step for i in range(count)]


def text_of(value: Any) -> str:
    """A value as an override has it."""
    # 9 digits: 0.1 + 2 * 0.1 is written 0.3, and a float stays one.
    return repr(float(f"{value:.9g}")) if isinstance(value, float) else str(value)


def _listed(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"
