"""The Hydra application: composes the settings, runs the task, turns failures into exit codes.

0 done, 1 internal error or out of memory, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.app.failures import Failure, failure_of
from ltx2.app.folders import remove_if_unused, remove_unused_sweeps, run_log
from ltx2.app.groups import extra_folders, groups
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
from ltx2.app.prompts import quote_prompts
from ltx2.errors import UserError, nearest
from ltx2.pipelines.catalogue import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ltx2.app.schema import Root
    from ltx2.experiment.cell import Job
    from ltx2.experiment.session import Session

log = logging.getLogger(__name__)

INTERRUPTED = 130
# Exit codes of the jobs of this process; None in a worker process, which must raise instead.
_codes: list[int] | None = None


def launch(arguments: list[str]) -> int:
    """Run the application with command-line `arguments`; returns the exit code."""
    global _codes
    _codes = []
    chosen: dict[str, list[str]] = {}
    debug = "debug=true" in (argument.lower() for argument in arguments)
    overrides: list[str] = []
    try:
        conf = conf_folder()
        arguments = with_lora_entries(overrides_last(quote_prompts(arguments)))
        overrides = overrides_of(arguments)
        check_options(arguments)
        chosen = groups(conf, *extra_folders(arguments))
        check_overrides(overrides, chosen)
        _run_hydra(with_free_keys(arguments), conf)
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
    finally:
        remove_unused_sweeps()
    failed = [code for code in _codes if code]
    if failed and len(_codes) > 1:
        sys.stderr.write(f"{len(failed)} of {len(_codes)} jobs failed\n")
    return max(failed, default=0)


def _run_hydra(arguments: list[str], conf: Path) -> None:
    import hydra

    from ltx2.app.schema import register_schema

    register_schema()
    application = hydra.main(config_path=str(conf), config_name="config", version_base="1.3")(_job)
    with _own_arguments(arguments), _errors_raised(), _logging_restored():
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
    """One job of a run or sweep. Failures are reported here so that other jobs still run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        log.info("job %s: %s", hydra_config.job.num, hydra_config.job.override_dirname)
    folder = Path(hydra_config.runtime.output_dir)
    # As written: a list of strings that look like references must not be resolved.
    overrides = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    code = _guarded(config, [str(text) for text in overrides], folder)
    if _codes is not None:
        _codes.append(code)
    elif code:
        raise RuntimeError(f"the job failed with exit code {code}")


def _guarded(config: DictConfig, overrides: list[str], folder: Path) -> int:
    try:
        with run_log(folder) as file_log:
            try:
                _run_task(config, overrides, folder)
            except Exception as error:
                failure = failure_of(error)
                file_log(failure.line, None if failure.expected else error)
                return _report(failure, bool(config.get("debug")))
    finally:
        remove_if_unused(folder, Path(config.paths.outputs))
    return 0


def _run_task(config: DictConfig, overrides: list[str], folder: Path) -> None:
    from ltx2.app.effects import check_effects, check_required
    from ltx2.app.schema import settings_of

    settings = settings_of(config)
    if settings.task not in TASKS:
        hint = nearest(settings.task, TASKS)
        raise UserError(f"task={settings.task} is unknown{hint}; use {', '.join(TASKS)}")
    check_required(settings)
    check_effects(settings, [key_of(text) for text in overrides])
    TASKS[settings.task](settings, folder)


def generate(settings: Root, folder: Path, job: Job | None = None) -> None:
    """Make one clip; the backend's framework is imported only when the plan has been accepted."""
    from ltx2.app.build import build, build_table
    from ltx2.experiment.cell import Job
    from ltx2.experiment.diary import Extras
    from ltx2.experiment.run import generate as run
    from ltx2.experiment.trackers.fanout import Trackers
    from ltx2.experiment.trackers.local import LocalTracker

    # Read when torch loads. Threads that wait by spinning stall each other as soon as another
    # program uses a core: 11 s instead of 0.7 s for the demo's first stage on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    loggers = build_table("logger", settings.logger)
    local = LocalTracker(settings.paths.outputs)
    extras = Extras(
        job=job or Job(),
        session=_session(),
        cache=settings.cache,
        metrics=build_table("metrics", settings.metrics),
        trackers=Trackers({"local": local} | loggers),
    )
    make_backend = partial(build, settings.backend)
    path = run(settings, make_backend, folder, show_progress=sys.stderr.isatty(), extras=extras)
    log.info("wrote %s", path)


@functools.cache
def _session() -> Session:
    """What this process keeps between its jobs."""
    from ltx2.experiment.session import Session

    return Session()


TASKS: dict[str, Callable[[Any, Path], None]] = {"generate": generate}


def _interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return INTERRUPTED


def _report(failure: Failure, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"{failure.line}\n")
    return failure.code
