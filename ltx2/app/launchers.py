"""Launchers of other packages (joblib, submitit, Ray): running every job to its end with them.

The packages' own `launch` gives up at the first lost worker and leaves the other jobs running
unattended, starts local jobs all at once, and lets Ray reload the model for every job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ltx2.errors import UserError

log = logging.getLogger(__name__)

# Module of hydra_plugins -> (distribution, extra of ltx2).
_PACKAGES = {
    "hydra_joblib_launcher": ("hydra-joblib-launcher", "joblib"),
    "hydra_submitit_launcher": ("hydra-submitit-launcher", "slurm"),
    "hydra_ray_launcher": ("hydra-ray-launcher", "ray"),
}
OPTIONS = ("joblib", "ray", "submitit_local", "submitit_slurm")

Jobs = list[list[str]]


def use_own_options() -> None:
    """Let conf/hydra/launcher stand for these launchers: a plugin's option would shadow its file.

    Hydra compares a file with the stored option of the same name, and warns of having done so.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds the plugins, which store their options
    stored = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for name in OPTIONS:
        stored.pop(f"{name}.yaml", None)


def check_installed(target: str) -> None:
    """Raise UserError when the package of a launcher's `_target_` is missing."""
    from importlib.util import find_spec

    for package, (distribution, extra) in _PACKAGES.items():
        if f".{package}." in target and find_spec(f"hydra_plugins.{package}") is None:
            raise UserError(
                f"this hydra/launcher needs {distribution}; pip install 'ltx2[{extra}]'"
            )


def workers_of(launcher: Any) -> int:
    """Cells that `launcher` runs at a time, as far as its settings tell.

    Raises UserError for a number that is none.
    """
    package = _package(launcher)
    if package == "hydra_joblib_launcher":
        count = launcher.joblib.get("n_jobs")
        return os.cpu_count() or 1 if count == -1 else _count("n_jobs", count, " or -1")
    if package == "hydra_submitit_launcher":
        key = "max_running" if launcher._EXECUTOR == "local" else "array_parallelism"
        return _count(key, launcher.params.get(key))
    if package == "hydra_ray_launcher":
        settings = launcher.ray_cfg
        counts = [
            int((settings.init.get(key) or default) / settings.remote[key])
            for key, default in (("num_cpus", os.cpu_count() or 1), ("num_gpus", 1))
            if settings.remote.get(key)
        ]
        return max(1, min(counts, default=1))
    return 1


def _count(key: str, value: Any, also: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"hydra.launcher.{key}={value} is not a whole number from 1{also}")
    return value


def _package(launcher: Any) -> str:
    return [*type(launcher).__module__.split("."), ""][1]


def launch(launcher: Any, jobs: Jobs, is_done: Callable[[int], bool]) -> None:
    """Run `jobs`, one list of overrides each, and return when none is left running.

    A job that leaves no result (`is_done` of its index), because its worker died, is run again
    once more; how jobs ended is for the caller to read from their folders. Raises UserError when
    nothing can be launched, KeyboardInterrupt after the jobs were told to stop.
    """

    def run(chosen: list[int]) -> list[int]:
        _RUN.get(_package(launcher), _joblib)(launcher, [jobs[i] for i in chosen])
        lost = [i for i in chosen if not is_done(i)]
        if lost:
            log.warning("%d of %d jobs were lost with their worker", len(lost), len(jobs))
        return lost

    with _environment():
        lost = run(list(range(len(jobs))))
        if lost and _package(launcher) in _RUN:
            run(lost)
            return
        # joblib ends all jobs with the one whose worker died: that one runs by itself at last.
        while lost:
            again = run(lost)
            if len(again) == len(lost):
                for i in again if len(again) > 1 else []:
                    run([i])
                return
            lost = again


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Variables that workers inherit, set while jobs run."""
    wanted = {
        "RAY_AUTH_MODE": "disabled",  # otherwise Ray writes a token into the home directory
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    wanted = {name: value for name, value in wanted.items() if name not in os.environ}
    source = str(Path(__file__).resolve().parents[2])
    if source != sysconfig.get_paths()["purelib"]:  # not installed: workers may start elsewhere
        before = os.environ.get("PYTHONPATH")
        wanted["PYTHONPATH"] = source if not before else f"{source}{os.pathsep}{before}"
    with _set(wanted):
        yield


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _joblib(launcher: Any, jobs: Jobs) -> None:
    try:
        launcher.launch(jobs, initial_job_idx=0)
    except Exception as error:  # a killed worker ends all of them
        log.warning("%s: %s", type(error).__name__, str(error).partition("\n")[0])


def _submitit(launcher: Any, jobs: Jobs) -> None:
    from ltx2.app.launch_submitit import run

    run(launcher, jobs)


def _ray(launcher: Any, jobs: Jobs) -> None:
    from ltx2.app.launch_ray import run

    run(launcher, jobs)


_RUN = {"hydra_submitit_launcher": _submitit, "hydra_ray_launcher": _ray}
