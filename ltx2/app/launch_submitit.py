"""Jobs of submitit, on Slurm or as processes here: watched by their files, lost ones told apart.

submitit itself asks sacct, which knows nothing where accounting is off, and starts all local jobs
at once.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from ltx2.errors import UserError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_QUEUE_SECONDS = 5.0
# A finished job leaves the queue before its result is seen on a network disk.
_ABSENT_SECONDS = 20.0
_STOP_SECONDS = 60.0


def run(launcher: Any, jobs: list[list[str]]) -> None:
    """Run all jobs with Hydra's submitit launcher; a lost one is logged.

    Slurm gets one array. Local jobs run `max_running` at a time and share the cores. After a
    Ctrl-C the running jobs end their step.
    """
    state = Singleton.get_state()
    calls = [(list(job), "hydra.sweep.dir", n, f"job_{n}", state) for n, job in enumerate(jobs)]
    if launcher._EXECUTOR == "slurm":
        _run_array(launcher, calls)
    else:
        _run_local(launcher, calls, launcher.params.get("max_running", len(jobs)))


def _run_array(launcher: Any, calls: list[tuple[Any, ...]]) -> None:
    executor = _executor(launcher)
    try:
        running = executor.map_array(launcher, *zip(*calls, strict=True))
    except submitit.core.utils.FailedJobError as error:
        told = (str(error).strip().splitlines() or ["no message"])[-1]
        raise UserError(f"Slurm refused the jobs: {told}") from error
    log.info("Slurm job %s with %d tasks", running[0].job_id.partition("_")[0], len(running))
    queue = _Queue()
    try:
        while running:
            time.sleep(_POLL_SECONDS)
            queue.ask()
            running = [job for job in running if not _has_result(job) and not queue.lost(job)]
    except KeyboardInterrupt:
        _stop_array(running, queue)
        raise


def _run_local(launcher: Any, calls: list[tuple[Any, ...]], limit: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // limit)
    own = "OMP_NUM_THREADS" not in os.environ
    if own:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    executor = _executor(launcher)
    waiting = list(calls)
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(executor.submit(launcher, *waiting.pop(0)))
            time.sleep(_POLL_SECONDS)
            for job in [job for job in running if job.done()]:
                running.remove(job)
                if not _has_result(job):
                    log.warning("job %s ended without a result", job.job_id)
    except KeyboardInterrupt:
        _stop_local(running)
        raise
    finally:
        if own:
            del os.environ["OMP_NUM_THREADS"]


def _has_result(job: Any) -> bool:
    return job.paths.result_pickle.exists()


def _stop_array(jobs: list[Any], queue: _Queue) -> None:
    """Let running tasks end their step and write what they have, then cancel what is left."""
    ids = [job.job_id for job in jobs]
    subprocess.run(["scancel", "--quiet", "--state=PENDING", *ids])
    subprocess.run(["scancel", "--quiet", "--signal=INT", *ids])
    deadline = time.monotonic() + _STOP_SECONDS
    while jobs and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        queue.ask()
        jobs = [job for job in jobs if not queue.is_absent(job)]
    if jobs:
        subprocess.run(["scancel", "--quiet", *(job.job_id for job in jobs)])


def _stop_local(jobs: list[Any]) -> None:
    """As `_stop_array`; Ctrl-C has reached the processes, unless only this one was signalled."""
    for job in jobs:
        job.cancel(check=False)
    deadline = time.monotonic() + _STOP_SECONDS
    while any(not job.done() for job in jobs) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


class _Queue:
    """What squeue tells of this user's jobs, asked every few seconds."""

    def __init__(self) -> None:
        self._ids: set[str] | None = None
        self._asked = time.monotonic()
        self._absent_since: dict[str, float] = {}

    def ask(self) -> None:
        if time.monotonic() - self._asked < _QUEUE_SECONDS:
            return
        self._asked = time.monotonic()
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        told = subprocess.run(command, capture_output=True, text=True)
        self._ids = set(told.stdout.split()) if told.returncode == 0 else None

    def is_absent(self, job: Any) -> bool:
        """Whether the last answer did not name `job`; no answer says nothing."""
        return self._ids is not None and job.job_id not in self._ids

    def lost(self, job: Any) -> bool:
        """Whether `job` left the queue a while ago and nothing came of it."""
        if not self.is_absent(job):
            self._absent_since.pop(job.job_id, None)
            return False
        since = self._absent_since.setdefault(job.job_id, time.monotonic())
        if time.monotonic() - since < _ABSENT_SECONDS:
            return False
        log.warning("Slurm job %s ended without a result", job.job_id)
        return True


def _executor(launcher: Any) -> Any:
    """submitit's executor with the launcher's settings, named as it wants them."""
    cluster = launcher._EXECUTOR
    shared = {item.name for item in fields(BaseQueueConf)}
    params = dict(launcher.params)
    params.pop("max_running", None)
    folder = Path(str(launcher.config.hydra.sweep.dir)) / ".submitit/%j"
    timeouts = params.pop("max_num_timeout", 0)
    given = {"slurm_max_num_timeout": timeouts} if cluster == "slurm" else {}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **given)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"hydra/launcher=submitit_slurm: {reason}; run it on a machine with sbatch and srun"
        ) from error
    executor.update_parameters(
        **{key if key in shared else f"{cluster}_{key}": value for key, value in params.items()}
    )
    return executor
