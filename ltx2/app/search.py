"""`sweep.optimize`: a search over the swept values, run as a sweep that grows while it runs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ltx2.app.cells import Composer, composed, planned, typed_items
from ltx2.app.overrides import key_of
from ltx2.app.sweeps import Setup, Sweep
from ltx2.errors import UserError
from ltx2.experiment.record import to_json, write_text
from ltx2.experiment.sweep.execute import CellLauncher
from ltx2.experiment.sweep.grid import Axis, Choice
from ltx2.experiment.sweep.plan import Cell, SweepPlan
from ltx2.experiment.sweep.search import (
    STUDY,
    Choices,
    Found,
    Goal,
    Numbers,
    RunBatch,
    check_goal,
    search,
    text_of,
)
from ltx2.experiment.sweep.status import SUMMARY, finished_record

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from ltx2.app.schema import OptimizeSettings, Root

log = logging.getLogger("ltx2.experiment.sweep.search")

_SHOWN = 10


def run_search(
    setup: Setup, composer: Composer, make_launcher: Callable[[SweepPlan], CellLauncher]
) -> int:
    """Try cells until `sweep.optimize.trials` of them are complete; the exit code.

    The study lies in the sweep's folder: the same command goes on with it. Raises UserError for a
    goal that cannot be reached or a space with values that are refused, before anything runs.
    """
    settings = setup.settings
    if settings.zip or settings.cells:
        name = "zip" if settings.zip else "cells"
        raise UserError(f"sweep.{name} lists cells and sweep.optimize searches them; keep one")
    space = Space.typed(composer, setup.request.overrides)
    probes = _probes(space, composer)
    goal = _goal(settings.optimize, probes)
    check_goal(goal, space.axes, _computed(probes))
    sweep = Sweep(setup, space.keys, composer)
    if setup.dry_run:
        sys.stdout.write("\n".join(_described(space, goal, sweep)) + "\n")
        return 0
    launchers: list[CellLauncher] = []

    def make(plan: SweepPlan) -> CellLauncher:
        launchers.append(make_launcher(plan))
        return launchers[0]

    with sweep.opened(make):
        _restore(sweep)
        goal = replace(goal, batch=settings.optimize.batch or launchers[0].workers)
        limit = settings.max_failures
        study = sweep.folder / STUDY
        found = search(space.axes, goal, study, space.runner(sweep), limit)
    _tell(found, goal, space, sweep)
    return sweep.code


@dataclass(frozen=True)
class Space:
    """What is searched, and the overrides that all cells share.

    `shown` has the values of a list as a reader wants to see them, by their text in an override.
    """

    fixed: tuple[str, ...]
    axes: tuple[Choices | Numbers, ...]
    written: dict[str, str]
    shown: dict[tuple[str, str], str]

    @classmethod
    def typed(cls, composer: Composer, overrides: Sequence[str]) -> Space:
        """The space of a command line: lists, ranges and intervals are searched."""
        fixed: list[str] = []
        axes: list[Choices | Numbers] = []
        written: dict[str, str] = {}
        shown: dict[tuple[str, str], str] = {}
        for text in overrides:
            parsed = composer.parse(text)
            numbers = _numbers(parsed)
            items = [] if numbers else typed_items(composer, [text])
            fixed += [item for item in items if isinstance(item, str)]
            for item in items:
                if isinstance(item, Axis):
                    values = [one.partition("=")[2] for one in item.overrides]
                    axes.append(Choices(item.key, tuple(values)))
                    pairs = zip(values, item.shown, strict=True)
                    shown |= {(item.key, value): seen for value, seen in pairs}
            if numbers:
                if key_of(text).startswith("sweep."):
                    raise UserError(f"{key_of(text)} belongs to the whole sweep; give it one value")
                axes.append(numbers)
            if parsed.is_sweep_override():
                written[axes[-1].key] = text.partition("=")[0]
        return cls(tuple(fixed), tuple(axes), written, shown)

    @property
    def keys(self) -> list[str]:
        return [axis.key for axis in self.axes]

    def choice(self, overrides: Sequence[str]) -> Choice:
        """A cell from a value for every axis, as `KEY=VALUE`."""
        typed, values = [], {}
        for text in overrides:
            key, _, value = text.partition("=")
            typed.append(f"{self.written[key]}={value}")
            values[key] = self.shown.get((key, value), value)
        return Choice((*self.fixed, *typed), values)

    def runner(self, sweep: Sweep) -> RunBatch:
        """Runs trials as cells of `sweep`."""
        return lambda batch: sweep.run_batch([self.choice(overrides) for overrides in batch])


def _numbers(parsed: Override) -> Numbers | None:
    """The axis of an interval or a range; None for anything else."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    value = parsed.value()
    key = parsed.get_key_element().lstrip("+")
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        if value.start >= value.end or ("log" in value.tags and value.start <= 0):
            raise UserError(
                f"{parsed.input_line} is no interval from a lower to a higher number"
                + (" above 0" if "log" in value.tags else "")
            )
        return Numbers(key, value.start, value.end, log="log" in value.tags)
    if not isinstance(value, RangeSweep):
        return None
    numbers = sorted(value.range())
    if not numbers:
        raise UserError(f"{parsed.input_line} has no values")
    if len(numbers) == 1:
        return Numbers(key, numbers[0], numbers[0], 1)
    return Numbers(key, numbers[0], numbers[-1], abs(value.step))


def _probes(space: Space, composer: Composer) -> list[Root]:
    """Settings with every value of a list, and both ends of every range, once.

    Raises UserError for the first that is refused: a search is not begun over such values.
    """
    from ltx2.app.main import check_settings

    ends = [_ends(axis) for axis in space.axes]
    first = [texts[0] for texts in ends]
    choices = [space.choice(first)]
    for number, texts in enumerate(ends):
        for text in texts[1:]:
            choices.append(space.choice([*first[:number], text, *first[number + 1 :]]))
    cells, refused = composed(composer, choices, check_settings)
    if not refused:
        cells, refused = planned(cells)
    for item in refused:
        values = " ".join(f"{key}={value}" for key, value in item.choice.values.items())
        raise UserError(f"{values}: {item.reason}")
    return [cell.settings for cell in cells]


def _ends(axis: Choices | Numbers) -> list[str]:
    values = list(axis.values) if isinstance(axis, Choices) else [axis.low, axis.high]
    return [f"{axis.key}={text_of(value)}" for value in dict.fromkeys(values)]


def _computed(probes: Sequence[Root]) -> list[str]:
    """Numbers that the metrics of every cell give."""
    from ltx2.app.build import build_table

    tables = [build_table("metrics", settings.metrics) for settings in probes]
    names = [{name for metric in table.values() for name in metric.names} for table in tables]
    return sorted(set.intersection(*names))


def _goal(settings: OptimizeSettings, probes: Sequence[Root]) -> Goal:
    directions = settings.directions or [_better(name) for name in settings.metrics]
    return Goal(
        metrics=tuple(settings.metrics),
        directions=tuple(directions),
        trials=settings.trials,
        sampler=settings.sampler,
        seed=settings.seed,
        batch=settings.batch or 1,
    )


def _better(name: str) -> str:
    """The direction in which a metric improves; the name itself when neither is better."""
    from ltx2.experiment.metrics.info import metric_info

    info = metric_info(name)
    known = {"higher": "maximize", "lower": "minimize"}
    return known.get(info.better, "") if info is not None else ""


def _restore(sweep: Sweep) -> None:
    """Take over the finished cells of an earlier call."""
    from ltx2.app.main import check_settings

    before = () if sweep.before is None else sweep.before.cells
    done = [c for c in before if finished_record(sweep.folder / c.folder, c.cell) is not None]
    again, _ = composed(
        sweep.composer, [Choice(c.overrides, c.values) for c in done], check_settings
    )
    settings = {cell.cell: cell.settings for cell in again}
    kept = [replace(c, settings=settings[c.cell]) for c in done if c.cell in settings]
    if kept:
        sweep.run(kept)


def _described(space: Space, goal: Goal, sweep: Sweep) -> list[str]:
    """What a dry run tells."""
    lines = []
    for axis in space.axes:
        if isinstance(axis, Choices):
            shown = [space.shown[axis.key, value] for value in axis.values]
            lines.append(f"{axis.key}: {', '.join(shown)}")
            continue
        step = f" in steps of {axis.step:g}" if axis.step else ""
        scale = ", logarithmic" if axis.log else ""
        lines.append(f"{axis.key}: {axis.low:g} to {axis.high:g}{step}{scale}")
    pairs = zip(goal.directions, goal.metrics, strict=True)
    aims = " and ".join(f"{direction} {name}" for direction, name in pairs)
    lines.append(f"{goal.trials} trials by {goal.sampler} to {aims}, in {sweep.folder}")
    return lines


def _tell(found: Found, goal: Goal, space: Space, sweep: Sweep) -> None:
    """Log the best trials and add them to summary.json."""
    best = []
    for trial in found.best:
        choice = space.choice(trial.overrides)
        cell = _cell_of(choice, sweep.plan.cells)
        best.append(
            {
                "trial": trial.number,
                "cell": None if cell is None else cell.index,
                "folder": None if cell is None else cell.folder,
                "values": choice.values,
                "metrics": trial.metrics,
            }
        )
    path = sweep.folder / SUMMARY
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["search"] = {
        "metrics": list(goal.metrics),
        "directions": list(goal.directions),
        "completed": found.completed,
        "failed": found.failed,
        "missing": found.missing,
        "best": best,
    }
    write_text(path, to_json(summary, indent=1) + "\n")
    for line in _lines(found, goal, best):
        log.info("%s", line)


def _cell_of(choice: Choice, cells: Sequence[Cell]) -> Cell | None:
    return next((cell for cell in cells if cell.values == choice.values), None)


def _lines(found: Found, goal: Goal, best: list[dict[str, Any]]) -> list[str]:
    failed = f", {found.failed} failed" if found.failed else ""
    lines = [f"{found.completed} trials are complete{failed}"]
    if len(goal.metrics) > 1:
        lines.append(f"{len(best)} trials that no other is better than in every metric:")
    for row in best[:_SHOWN]:
        values = " ".join(f"{key}={value}" for key, value in row["values"].items())
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in row["metrics"].items())
        lines.append(f"best: {values}: {metrics} (trial {row['trial']}, {row['folder']})")
    if len(best) > _SHOWN:
        lines.append(f"... and {len(best) - _SHOWN} more in {SUMMARY}")
    return lines
