"""A sweep from its command line to its summary: cells, plan, execution, dashboard."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.app.ahead import stage_actions
from ltx2.app.cells import (
    Composer,
    composed,
    once_each,
    planned,
    refuse,
    table_choices,
    typed_items,
)
from ltx2.errors import UserError
from ltx2.experiment.sweep.execute import CellLauncher, Execution, View
from ltx2.experiment.sweep.grid import Choice, choices
from ltx2.experiment.sweep.names import cell_folder, sweep_id
from ltx2.experiment.sweep.order import check_order, run_order
from ltx2.experiment.sweep.plan import Cell, SweepPlan, read_plan, shared_base, write_plan
from ltx2.experiment.sweep.status import (
    BAD,
    Board,
    CellResult,
    finished_record,
    now,
)
from ltx2.experiment.sweep.table import LiveTable, LogLines, failure_table

if TYPE_CHECKING:
    from ltx2.app.schema import Root, SweepSettings

log = logging.getLogger("ltx2.experiment.sweep.app")

FAILED = 3
LOCK = ".lock"
# What a run would do about every stage: computed, reused or not needed.
Reuse = Callable[["Root"], dict[str, str]]


@dataclass(frozen=True)
class Request:
    """A command line: as typed, and its task overrides."""

    command: tuple[str, ...]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What a sweep is made with. `folder` is given by hydra.sweep.dir, else named by the sweep."""

    request: Request
    settings: SweepSettings
    outputs: Path
    folder: Path | None = None
    dry_run: bool = False


def run_sweep(
    setup: Setup, composer: Composer, make_launcher: Callable[[SweepPlan], CellLauncher]
) -> int:
    """Run every cell that is not finished; the exit code. Nothing runs before all are checked.

    Raises UserError for cells that cannot run, KeyboardInterrupt after writing the summary.
    """
    check_order(setup.settings.order)
    if setup.settings.optimize.trials:
        from ltx2.app.search import run_search

        return run_search(setup, composer, make_launcher)
    typed = typed_items(composer, setup.request.overrides)
    tables = table_choices(setup.settings.cells)
    grid = choices(typed, zip_groups(setup.settings.zip), tables)
    cells, refused = composed(composer, grid, _check())
    refuse(refused, len(grid))
    sweep = Sweep(setup, _keys(grid), composer)
    cells = sweep.named(once_each(cells))
    cells, refused = sweep.planned(cells)
    refuse(refused, len(grid))
    if setup.dry_run:
        sys.stdout.write("\n".join(grid_lines(cells, sweep.folder, stage_actions)) + "\n")
        return 0
    with sweep.opened(make_launcher):
        sweep.run(cells)
    return sweep.code


class Sweep:
    """A sweep in its folder; its plan may grow while it runs, as a search asks for cells."""

    def __init__(self, setup: Setup, keys: Sequence[str], composer: Composer) -> None:
        self.setup, self.composer = setup, composer
        request, settings = setup.request, setup.settings
        # Two records rerun with the same overrides are two sweeps.
        source = request.command[1:2] if request.command[:1] == ("rerun",) else ()
        name = sweep_id(settings.name, keys, (*request.overrides, *source))
        self.folder = setup.folder or setup.outputs / "sweeps" / name
        optimize = asdict(settings.optimize) if settings.optimize.trials else None
        self.before = read_plan(self.folder)
        if self.before is not None and self.before.sweep != name:
            raise UserError(
                f"{self.folder} holds another sweep, {self.before.sweep};"
                " choose another hydra.sweep.dir"
            )
        self.plan = SweepPlan(
            sweep=name,
            name=settings.name,
            created=now(),
            command=request.command,
            directory=os.getcwd(),
            overrides=request.overrides,
            optimize=optimize,
        )
        if self.before is not None:
            old = self.before
            self.plan = replace(
                self.plan, created=old.created, command=old.command, directory=old.directory
            )
        self.code = 0
        self._execution: Execution | None = None

    def named(self, cells: Sequence[Cell]) -> list[Cell]:
        """Cells with their folders: the one of the same cell in an earlier call, or a new one."""
        earlier = {} if self.before is None else {c.cell: c.folder for c in self.before.cells}
        taken = set(earlier.values()) | {cell.folder for cell in self.plan.cells}
        named = []
        for cell in cells:
            folder = earlier.get(cell.cell) or cell_folder(cell.index, cell.values)
            if cell.cell not in earlier and folder in taken:
                folder = f"{folder}-{cell.cell[:6]}"  # other settings, under the same values
            taken.add(folder)
            named.append(replace(cell, folder=folder))
        return named

    def planned(self, cells: Sequence[Cell]) -> tuple[list[Cell], list[Any]]:
        """Cells with their cost, and the refused ones; finished cells were checked before."""
        finished = {
            cell.index for cell in cells if finished_record(self.folder / cell.folder, cell.cell)
        }
        done, refused = planned([cell for cell in cells if cell.index not in finished])
        costs = {cell.index: cell for cell in done}
        left_out = {item.index for item in refused}
        kept = [costs.get(cell.index, cell) for cell in cells if cell.index not in left_out]
        return kept, refused

    @contextlib.contextmanager
    def opened(self, make_launcher: Callable[[SweepPlan], CellLauncher]) -> Iterator[None]:
        """The folder is made and held; at the end come the summary and the dashboard."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _held(self.folder):
            board = Board(self.plan.sweep, self.folder)
            launcher = make_launcher(self.plan)
            limit = self.setup.settings.max_failures
            self._execution = Execution(board, launcher, _view(board), limit)
            interrupted = False
            try:
                yield
            except KeyboardInterrupt:
                interrupted = True
                raise
            finally:
                self._finish(board, self._execution.finish(interrupted))

    def run(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Write `cells` into the plan and run them; their results, in the same order."""
        assert self._execution is not None
        known = {cell.index for cell in self.plan.cells}
        added = tuple(cell for cell in cells if cell.index not in known)
        every = (*self.plan.cells, *added)
        base = shared_base([cell.settings for cell in every])
        self.plan = replace(self.plan, cells=every, base=base)
        write_plan(self.folder, self.plan)
        order = self.setup.settings.order
        self._execution.board.add(added)
        results = self._execution.run(run_order(cells, order))
        by_index = {result.index: result for result in results}
        return [by_index[cell.index] for cell in cells]

    def run_batch(self, batch: Sequence[Choice]) -> list[dict[str, float] | None]:
        """Run cells that are asked for while the sweep goes on; their metrics, None for a failed.

        A cell that ran before is not run again; one that is refused counts as failed.
        """
        first = max((cell.index for cell in self.plan.cells), default=-1) + 1
        cells, refused = composed(self.composer, batch, _check(), first)
        earlier = {cell.cell: cell for cell in self.plan.cells}
        fresh = {cell.cell: cell for cell in cells if cell.cell not in earlier}
        accepted, unplanned = self.planned(self.named(list(fresh.values())))
        for item in (*refused, *unplanned):
            log.warning("trial refused: %s", item.reason)
        runnable = {cell.cell: cell for cell in accepted}
        wanted = [runnable.get(cell.cell) or earlier.get(cell.cell) for cell in cells]
        self.run(list({cell.cell: cell for cell in wanted if cell is not None}.values()))
        found: dict[int, dict[str, float]] = {}
        for asked, cell in zip(cells, wanted, strict=True):
            if cell is not None:
                record = finished_record(self.folder / cell.folder, cell.cell)
                if record is not None:
                    found[asked.index] = record.get("metrics") or {}
        return [found.get(first + i) for i in range(len(batch))]

    def _finish(self, board: Board, summary: dict[str, Any]) -> None:
        counts = board.counts()
        publish(self.plan, self.folder, self.setup.outputs, summary)
        for line in failure_table(board):
            sys.stderr.write(f"{line}\n")
        if counts["skipped"] and counts["skipped"] == len(board.cells):
            log.info("all %d cells are finished already", len(board.cells))
        log.info("sweep %s: %s", summary["status"], self.folder)
        self.code = FAILED if any(counts[status] for status in BAD) else 0


def zip_groups(given: Sequence[Any]) -> list[list[str]]:
    """sweep.zip as lists of keys: one list may be written without its outer brackets."""
    if given and all(isinstance(item, str) for item in given):
        return [list(given)]
    for item in given:
        if not isinstance(item, list) or not all(isinstance(key, str) for key in item):
            raise UserError("sweep.zip is not a list of keys such as [seed,height], or of lists")
    return [list(item) for item in given]


def _keys(grid: Sequence[Choice]) -> list[str]:
    """What varies, in order."""
    return list(dict.fromkeys(key for choice in grid for key in choice.values))


def _check() -> Callable[[Any, Sequence[str]], None]:
    from ltx2.app.main import check_settings

    return check_settings


def _view(board: Board) -> View:
    return LiveTable(board) if sys.stderr.isatty() else LogLines(board)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep another process out of a sweep that runs; the lock goes with the process."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the sweep in {folder} is running in another process") from None
        except OSError:  # a shared disk without locks
            log.debug("no lock in %s", folder)
        yield


def grid_lines(cells: Sequence[Cell], folder: Path, reuse: Reuse) -> list[str]:
    """The table of a dry run: values, transformer calls, share of the cost, what is reused."""
    total = sum(cell.cost for cell in cells) or 1.0
    keys = list(dict.fromkeys(key for cell in cells for key in cell.values))
    rows = [["cell", *keys, "calls", "cost", "from cache"]]
    finished = 0
    for cell in cells:
        values = [cell.values.get(key, "") for key in keys]
        held = [name for name, action in reuse(cell.settings).items() if action == "reused"]
        if finished_record(folder / cell.folder, cell.cell):
            finished += 1
            rows.append([str(cell.index), *values, "", "", "finished"])
            continue
        share = f"{100 * cell.cost / total:.0f} %"
        rows.append([str(cell.index), *values, str(cell.calls), share, ", ".join(held)])
    shown = [[text if len(text) <= 40 else text[:39] + "…" for text in row] for row in rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    left = len(cells) - finished
    return [*lines, f"{len(cells)} cells, {left} to run, in {folder}"]


def publish(plan: SweepPlan, folder: Path, outputs: Path, summary: dict[str, Any]) -> None:
    """The sweep's dashboard and what trackers keep of it; a failure is only warned about."""
    steps = [partial(_tell_trackers, plan, folder, summary), partial(_write_pages, folder, outputs)]
    for step in steps:
        try:
            step()
        except Exception as error:
            log.warning("after the sweep: %s: %s", type(error).__name__, error)


def _tell_trackers(plan: SweepPlan, folder: Path, summary: dict[str, Any]) -> None:
    loggers = next((cell.settings.logger for cell in plan.cells if cell.settings.logger), None)
    if loggers is None:
        return
    from ltx2.app.build import build_table
    from ltx2.experiment.trackers.fanout import Trackers

    Trackers(build_table("logger", loggers)).finish_sweep(folder, summary)


def _write_pages(folder: Path, outputs: Path) -> None:
    from ltx2.experiment.dashboard.page import write_index_page, write_sweep_page

    write_sweep_page(folder)
    write_index_page(outputs)
