"""Jobs on Ray: submitted together, each awaited whatever became of the others."""

from __future__ import annotations

import logging
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals
from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray, start_ray
from omegaconf import DictConfig, open_dict

from ltx2.errors import UserError

log = logging.getLogger(__name__)

_STOP_SECONDS = 60
# Results are small; without a size Ray reserves a third of the memory.
_OBJECT_STORE_BYTES = 75 * 2**20


def run(launcher: Any, jobs: list[list[str]]) -> None:
    """Run all jobs with Hydra's Ray launcher; a lost one is logged.

    Ray is started, and stopped at the end, unless a cluster's address is given. A Ctrl-C reaches
    the workers as one: their running step ends.
    """
    setup_globals()
    started_here = not ray.is_initialized()
    if launcher.ray_cfg.init.get("address") is None:
        launcher.ray_cfg.init.setdefault("object_store_memory", _OBJECT_STORE_BYTES)
    start_ray(launcher.ray_cfg.init)
    running: list[Any] = []
    try:
        _share_out(launcher.ray_cfg.remote, ray.cluster_resources())
        for number, overrides in enumerate(jobs):
            running.append(_submit(launcher, overrides, number))
        for reference in running:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                log.warning("%s", str(error).partition("\n")[0])
    except KeyboardInterrupt:
        for reference in running:
            ray.cancel(reference)
        ray.wait(running, num_returns=len(running), timeout=_STOP_SECONDS)
        raise
    finally:
        if started_here:
            ray.shutdown()


def _share_out(wanted: DictConfig, found: dict[str, float]) -> None:
    """Give a cell one GPU if there are any and nothing was said; refuse what Ray cannot give.

    Ray would wait for it for ever.
    """
    if wanted.get("num_gpus", 0) is None:
        with open_dict(wanted):
            wanted.num_gpus = int(found.get("GPU", 0) >= 1)
    for key, name in (("num_gpus", "GPU"), ("num_cpus", "CPU")):
        if wanted.get(key, 0) > found.get(name, 0):
            raise UserError(
                f"hydra.launcher.ray.remote.{key}={wanted[key]} for a cell, and Ray has"
                f" {found.get(name, 0):g}; ask for less"
            )


def _submit(launcher: Any, overrides: list[str], number: int) -> Any:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    return launch_job_on_ray(
        launcher.hydra_context,
        launcher.ray_cfg.remote,
        config,
        launcher.task_function,
        Singleton.get_state(),
    )
