"""The Hydra application: composes the settings, runs the task, turns failures into exit codes.

0 done, 1 internal error or out of memory, 2 the user's mistake, 3 cells of a sweep failed,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.app.failures import Failure, failure_of
from ltx2.app.folders import remove_if_unused, run_log
from ltx2.app.groups import config_folders, groups
from ltx2.app.overrides import (
    check_options,
    check_overrides,
    explain,
    key_of,
    overrides_last,
    overrides_of,
    with_free_keys,
    with_lora_entries,
)
from ltx2.app.prompts import check_prompts_file, quote_prompts
from ltx2.app.training import (
    check_training,
    is_training,
    register_training_schema,
    training_folder,
    training_groups,
    with_base,
)
from ltx2.errors import UserError, nearest
from ltx2.pipelines.catalogue import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ltx2.app.schema import Root
    from ltx2.experiment.cell import Job
    from ltx2.experiment.session import Session
    from ltx2.experiment.sweep.plan import Cell
    from ltx2.experiment.sweep.status import CellResult

log = logging.getLogger(__name__)

INTERRUPTED = 130
# Runs up to which the index page is written after every single one; `ltx2 dashboard` always does.
MOST_INDEXED = 500
# Values of entries of groups that may be swept themselves.
_ENTRY = re.compile(r"\+*(lora|conditioning|metrics|logger)\.")
# Exit code of the single run of this process; None in a worker process, which raises instead.
_codes: list[int] | None = None


def launch(arguments: list[str], command: Sequence[str] = ()) -> int:
    """Run the application with command-line `arguments`; returns the exit code.

    `command` is what a record says was typed, if it was not `arguments`.
    """
    global _codes
    _codes = []
    chosen: dict[str, list[str]] = {}
    command = tuple(command or arguments)
    debug = "debug=true" in (argument.lower() for argument in arguments)
    overrides: list[str] = []
    try:
        conf = conf_folder()
        check_prompts_file(arguments)
        arguments = with_lora_entries(overrides_last(quote_prompts(arguments)))
        overrides = overrides_of(arguments)
        check_options(arguments)
        chosen = groups(*config_folders(arguments))
        if is_training(overrides):
            check_training(arguments)
            conf, chosen = training_folder(), training_groups(chosen)
            arguments = with_base(arguments)
            overrides = overrides_of(arguments)
        check_overrides(overrides, chosen)
        _run_hydra(arguments, conf, command)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:
        return _report(failure_of(error), debug)
    except Exception as error:  # Hydra's own: composition, folders
        line = explain(error, overrides, chosen)
        failure = failure_of(error) if line is None else Failure(line, 2)
        return _report(failure, debug)
    return max(_codes, default=0)


def _run_hydra(arguments: list[str], conf: Path, command: tuple[str, ...]) -> None:
    import hydra
    from hydra.core.plugins import Plugins

    from ltx2.app.schema import register_schema
    from ltx2.app.search_path import Ltx2SearchPath

    trains = is_training(arguments)
    register_training_schema() if trains else register_schema()
    Plugins.instance().register(Ltx2SearchPath)
    request: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if {"-m", "--multirun"} & set(arguments):
        from ltx2.app.sweeper import register_plugins, requested
        from ltx2.app.sweeps import Request

        register_plugins()
        request = requested(Request(command, tuple(overrides_of(arguments))))
        # Hydra first composes without what is swept: entries may not exist yet.
        arguments = [text for text in arguments if not _ENTRY.match(text)]
    job = _training_job if trains else _job
    application = hydra.main(config_path=str(conf), config_name="config", version_base="1.3")(job)
    with request, _own_arguments(with_free_keys(arguments)), _errors_raised(), _logging_restored():
        application()


@contextlib.contextmanager
def _own_arguments(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """Undo the logging set-up of the jobs, for callers that are not the command line."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _errors_raised() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them and leaving."""
    name = "HYDRA_FULL_ERROR"
    before, os.environ[name] = os.environ.get(name), "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _job(config: DictConfig) -> None:
    """A single run, or a cell that one of Hydra's launchers runs. Failures are reported here."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    # As written: a list of strings that look like references must not be resolved.
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    code = _run_config(config, tuple(str(text) for text in overrides), folder)
    if _codes is not None:
        _codes.append(code)
    elif code:
        raise RuntimeError(f"the job failed with exit code {code}")


def _training_job(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from ltx2.app.training import run

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        failure = _failure(partial(run, config), folder, bool(config.debug))
    finally:
        remove_if_unused(folder, Path(config.paths.outputs))
    if failure is not None:
        sys.stderr.write(f"{failure.line}\n")
        if _codes is not None:
            _codes.append(failure.code)


def _run_config(config: DictConfig, overrides: tuple[str, ...], folder: Path) -> int:
    """Run what Hydra composed; the exit code."""
    from ltx2.app.schema import settings_of
    from ltx2.experiment.cell import Job
    from ltx2.experiment.sweep.plan import read_plan
    from ltx2.experiment.sweep.table import QuietConsole

    plan = read_plan(folder.parent)
    cell = None if plan is None else plan.cell_in(folder.name)
    if plan is not None and cell is not None:
        with QuietConsole():
            cell = replace(cell, settings=settings_of(config))
            done = run_cell(cell, folder.parent, plan.sweep)
        return 0 if done.status == "completed" else 1

    def run() -> None:
        settings = settings_of(config)
        check_settings(settings, overrides)
        _check_no_sweep(settings)
        if settings.plan:
            from ltx2.app.ahead import plan_text

            sys.stdout.write(plan_text(settings) + "\n")
            return
        TASKS[settings.task](settings, folder, Job(overrides))

    try:
        failure = _failure(run, folder, bool(config.get("debug")))
    finally:
        remove_if_unused(folder, Path(config.paths.outputs))
    if failure is None:
        return 0
    sys.stderr.write(f"{failure.line}\n")
    return failure.code


def _check_no_sweep(settings: Root) -> None:
    """Refuse what only a sweep would read."""
    from ltx2.app.schema import SweepSettings

    for key, default in vars(SweepSettings()).items():
        if getattr(settings.sweep, key) != default:
            raise UserError(f"sweep.{key} has no effect on a single run; add -m")


def run_cell(cell: Cell, sweep_folder: Path, sweep: str) -> CellResult:
    """Run one cell of a sweep in its folder; a failure is recorded there and does not raise."""
    from ltx2.experiment.cell import Job
    from ltx2.experiment.sweep.status import CellResult, write_failure

    folder = sweep_folder / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(cell.overrides, sweep, cell.values)
    run = partial(TASKS[cell.settings.task], cell.settings, folder, job)
    began = time.monotonic()
    failure = _failure(run, folder, cell.settings.debug)
    seconds = time.monotonic() - began
    if failure is None:
        return CellResult(cell.index, "completed", seconds)
    error = failure.line.removeprefix("error: ")
    write_failure(folder, cell, sweep, error, seconds)
    return CellResult(cell.index, "failed", seconds, error)


def prepare_cells(cells: Sequence[Cell]) -> None:
    """Encode the prompts of all cells at once; what fails here fails again in its cell."""
    from ltx2.app.ahead import encode_texts

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        encode_texts([cell.settings for cell in cells], _session())
    except Exception as error:
        log.warning("prompts are encoded one by one: %s", error)


def _failure(run: Callable[[], None], folder: Path, debug: bool) -> Failure | None:
    """What went wrong while `run` ran, which the folder's log tells too; None if nothing did."""
    with run_log(folder) as file_log:
        try:
            run()
        except Exception as error:
            failure = failure_of(error)
            file_log(failure.line, None if failure.expected else error)
            if debug:
                traceback.print_exc()
            return failure
    return None


def check_settings(settings: Root, overrides: Sequence[str]) -> None:
    """Raise UserError for settings that no run can have, or an override without effect."""
    from ltx2.app.effects import check_effects, check_required

    if settings.task not in TASKS:
        known = sorted({*TASKS, "train"})
        hint = nearest(settings.task, known)
        raise UserError(f"task={settings.task} is unknown{hint}; use {', '.join(known)}")
    check_required(settings)
    check_effects(settings, [key_of(text) for text in overrides])


def generate(settings: Root, folder: Path, job: Job | None = None) -> None:
    """Make one clip; the backend's framework is imported only when the plan has been accepted."""
    from ltx2.app.ahead import make_backend
    from ltx2.app.build import build_table
    from ltx2.experiment.cell import Job
    from ltx2.experiment.diary import Extras
    from ltx2.experiment.run import generate as run
    from ltx2.experiment.trackers.fanout import Trackers
    from ltx2.experiment.trackers.local import LocalTracker

    # Read when torch loads. Threads that wait by spinning stall each other as soon as another
    # program uses a core: 11 s instead of 0.7 s for the demo's first stage on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    job = job or Job()
    loggers = build_table("logger", settings.logger)
    local = LocalTracker(settings.paths.outputs)
    extras = Extras(
        job=job,
        # A single run is the last one of its process: what it does not need any more can go.
        session=None if job.sweep is None else _session(),
        cache=settings.cache,
        metrics=build_table("metrics", settings.metrics),
        trackers=Trackers({"local": local} | loggers),
    )
    # A sweep shows all its cells in one table.
    shows = sys.stderr.isatty() and extras.job.sweep is None
    if settings.download:
        from ltx2.app.downloads import download

        download(settings)
    backend = partial(make_backend, settings)
    path = run(settings, backend, folder, show_progress=shows, extras=extras)
    log.info("wrote %s", path)
    if extras.job.sweep is None:
        _write_index(Path(settings.paths.outputs))


def _write_index(outputs: Path) -> None:
    """Renew the page over all runs, as long as that takes no time that anybody would notice."""
    from ltx2.experiment.dashboard.page import write_index_page

    if sum(1 for _ in outputs.glob("*/*/run.json")) > MOST_INDEXED:
        return
    try:
        write_index_page(outputs)
    except Exception as error:  # a page about runs is no reason for a run to fail
        log.warning("the page over all runs is not renewed: %s", error)


@functools.cache
def _session() -> Session:
    """What this process keeps between its jobs."""
    from ltx2.experiment.session import Session

    return Session()


def _evaluate(settings: Root, folder: Path, job: Job | None = None) -> None:
    from ltx2.app.evaluating import evaluate

    evaluate(settings, folder, job)


TASKS: dict[str, Callable[[Any, Path, Any], None]] = {"generate": generate, "evaluate": _evaluate}


def _interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return INTERRUPTED


def _report(failure: Failure, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"{failure.line}\n")
    return failure.code
