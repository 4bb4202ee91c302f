"""Hydra's plugins: the sweeper, and the launchers that run cells without composing them again.

Hydra takes plugins only from modules below `hydra_plugins`, which it imports in every Hydra
program of the environment. These are registered by the application alone, under such a name.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from ltx2.app.cells import Composer, grid_overrides
from ltx2.app.launchers import check_installed, launch, use_own_options, workers_of
from ltx2.app.overrides import key_of, with_free_keys
from ltx2.app.prompts import override
from ltx2.app.sweeps import Request, Setup, run_sweep
from ltx2.errors import UserError
from ltx2.experiment.sweep.execute import CellLauncher, Events
from ltx2.experiment.sweep.plan import Cell, SweepPlan
from ltx2.experiment.sweep.status import RECORD, CellResult, read_record, result_in

log = logging.getLogger("ltx2.experiment.sweep.launch")

POLL_SECONDS = 0.5
MODULE = "hydra_plugins.ltx2"
CONFIG = "config.yaml"
_requests: list[Request] = []


@contextlib.contextmanager
def requested(request: Request) -> Iterator[None]:
    """The command line of the sweep that is going to be run inside."""
    _requests.append(request)
    try:
        yield
    finally:
        _requests.pop()


class Ltx2Sweeper(Sweeper):
    """Hands what Hydra has composed to `run_sweep`; ends the program with its exit code."""

    def __init__(self) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None
        self._launcher: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._config = hydra_context, config
        check_installed(str(config.hydra.launcher._target_))
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self._config is not None and self._context is not None
        config = self._config
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        typed = tuple(arguments)
        request = _requests[-1] if _requests else Request(tuple(sys.argv[1:]), typed)
        settings: Any = OmegaConf.to_object(config.sweep)
        request = replace(request, overrides=with_grid(request.overrides, settings.grid))
        added = grid_overrides(settings.grid, request.overrides)
        request = replace(request, overrides=(*request.overrides, *added))
        setup = Setup(
            request=request,
            settings=settings,
            outputs=Path(config.paths.outputs),
            folder=_given_folder(config),
            dry_run=settings.dry_run or bool(config.plan),
        )
        composer = Composer(self._context.config_loader, config)
        raise SystemExit(run_sweep(setup, composer, self._cell_launcher))

    def _cell_launcher(self, plan: SweepPlan) -> CellLauncher:
        if isinstance(self._launcher, (InProcessLauncher, GpuPoolLauncher)):
            return self._launcher.cells(plan.sweep)
        assert self._config is not None
        return HydraCells(self._launcher, self._config)


def with_grid(overrides: tuple[str, ...], grid: dict[str, Any]) -> tuple[str, ...]:
    """Overrides with the axes of sweep.grid, unless the command line has its own for a key."""
    typed = {key_of(text) for text in overrides}
    axes = []
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep.grid: {key} is not a list of values such as [1,2]")
        if key not in typed:
            texts = (override(key, value).partition("=")[2] for value in values)
            axes.append(f"{key}={','.join(texts)}")
    return (*overrides, *axes)


def _given_folder(config: DictConfig) -> Path | None:
    """hydra.sweep.dir of the command line; refuses a subdir, since cells are named here."""
    given = {str(text).lstrip("+").partition("=")[0] for text in config.hydra.overrides.hydra}
    if "hydra.sweep.subdir" in given:
        raise UserError("hydra.sweep.subdir has no effect: cells are named by their values")
    return Path(config.hydra.sweep.dir) if "hydra.sweep.dir" in given else None


class _OwnLauncher(Launcher):
    """What a launcher needs no more than: cells arrive composed."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        del hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        raise UserError("this launcher needs hydra/sweeper=ltx2")


class InProcessLauncher(_OwnLauncher):
    """Cells one after another in this process."""

    def cells(self, sweep: str) -> CellLauncher:
        from ltx2.app.main import prepare_cells, run_cell

        return InProcessCells(partial(run_cell, sweep=sweep), prepare_cells)


class GpuPoolLauncher(_OwnLauncher):
    """Cells on a process per device."""

    def __init__(self, devices: Any = "auto") -> None:
        self._devices = devices

    def cells(self, sweep: str) -> CellLauncher:
        from ltx2.app.main import run_cell
        from ltx2.experiment.sweep.pool import Pool, pool_devices

        given = self._devices
        devices = pool_devices(given if isinstance(given, str) else list(given), visible_gpus)
        return Pool(devices, partial(run_cell, sweep=sweep))


def visible_gpus() -> list[str]:
    """Numbers of the NVIDIA GPUs of this machine, without loading a framework."""
    import os
    import subprocess

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


class InProcessCells:
    """Runs cells with `run_cell`, which keeps its model between them."""

    workers = 1

    def __init__(
        self,
        run_cell: Callable[[Cell, Path], CellResult],
        prepare: Callable[[Sequence[Cell]], None] | None = None,
    ) -> None:
        self._run_cell, self._prepare = run_cell, prepare

    def run(self, cells: Sequence[Cell], folder: Path, events: Events) -> None:
        """Until the last cell, or until `events` has had enough."""
        if self._prepare is not None:
            self._prepare(cells)
        for cell in cells:
            events.began(cell)
            if not events.ended(self._run_cell(cell, folder)):
                return


class HydraCells:
    """Runs cells through one of Hydra's launchers; how they went is read from their records.

    The launcher composes every cell again, where it runs.
    """

    def __init__(self, launcher: Launcher, config: DictConfig) -> None:
        self._launcher, self._config = launcher, config
        self.workers = workers_of(launcher)

    def run(self, cells: Sequence[Cell], folder: Path, events: Events) -> None:
        """All `cells` in one launch. A launcher that breaks loses only what has no record."""
        folder = folder.absolute()
        with open_dict(self._config):
            self._config.hydra.sweep.dir = str(folder)
        jobs = [self._overrides(cell, folder) for cell in cells]

        def has_record(job: int) -> bool:
            return read_record(folder / cells[job].folder) is not None

        watch = _Watch(cells, folder, events)
        watch.start()
        stopped = False
        try:
            launch(self._launcher, jobs, has_record)
        except (UserError, KeyboardInterrupt):
            stopped = True
            raise
        except Exception as error:
            log.warning("the launcher stopped: %s", (str(error) or repr(error)).splitlines()[0])
        finally:
            watch.finish(stopped)

    @staticmethod
    def _overrides(cell: Cell, folder: Path) -> list[str]:
        place = (("hydra.sweep.dir", str(folder)), ("hydra.sweep.subdir", cell.folder))
        return [*with_free_keys(list(cell.overrides)), *(override(k, v) for k, v in place)]


class _Watch(threading.Thread):
    """Tells of cells that run elsewhere as their files appear."""

    def __init__(self, cells: Sequence[Cell], folder: Path, events: Events) -> None:
        super().__init__(daemon=True)
        self._waiting, self._running = list(cells), list[Cell]()
        self._folder, self._events = folder, events
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look()

    def finish(self, stopped: bool) -> None:
        """Tell of all cells that were not told of: one without a record is lost, or was stopped."""
        self._over.set()
        self.join()
        self._look()
        for cell in (*self._running, *self._waiting):
            result = result_in(self._folder / cell.folder, cell)
            if stopped and result.status == "lost":
                status = "pending" if cell in self._waiting else "interrupted"
                result = CellResult(cell.index, status)
            self._events.ended(result)

    def _look(self) -> None:
        for cell in list(self._waiting):
            if any((self._folder / cell.folder / name).exists() for name in (CONFIG, RECORD)):
                self._waiting.remove(cell)
                self._running.append(cell)
                self._events.began(cell)
        for cell in list(self._running):
            if read_record(self._folder / cell.folder) is not None:
                self._running.remove(cell)
                self._events.ended(result_in(self._folder / cell.folder, cell))


def register_plugins() -> None:
    """Make the classes known to Hydra under the names that conf/hydra uses."""
    registry = Plugins.instance()
    use_own_options()
    parent = sys.modules.get("hydra_plugins")
    if parent is None:  # no plugin is installed
        parent = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        parent.__path__ = []
    module = sys.modules[MODULE] = ModuleType(MODULE)
    setattr(parent, MODULE.rpartition(".")[2], module)
    for plugin in (Ltx2Sweeper, InProcessLauncher, GpuPoolLauncher):
        plugin.__module__ = MODULE
        setattr(module, plugin.__name__, plugin)
        registry.register(plugin)
