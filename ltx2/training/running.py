"""One training from its settings: checks, resuming, workers, and the record of how it was made."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ltx2.errors import MissingFile, UserError, nearest
from ltx2.experiment.interrupt import Interrupt
from ltx2.experiment.record import versions, write_text
from ltx2.experiment.trackers.base import Tracker, flat
from ltx2.media.atomic import check_writable
from ltx2.pipelines.settings import Settings
from ltx2.training.checkpoint import LATEST, load_state
from ltx2.training.modules import adopt
from ltx2.training.peers import Peers
from ltx2.training.reporting import Reporter, last_figures
from ltx2.training.schedule import Schedule
from ltx2.training.settings import TrainRoot
from ltx2.training.trainer import Objective, OptimiserOptions, Trainer, TrainOptions
from ltx2.training.workshop import Workshop, objective_state

log = logging.getLogger(__name__)

SETTINGS, RECORD = "settings.json", "training.json"
DTYPES, SHAPES = ("fp32", "bf16"), ("cosine", "linear", "constant")
# Settings that do not change what is computed at a step, or that may grow.
FREE = ("train.folder", "train.steps", "train.threads", "train.workers", "train.log_every",
        "train.evaluate_every", "train.save_every", "objective.name")  # fmt: skip
OWN = "ltx2."


def part_folder(settings: TrainRoot) -> Path:
    """Where the state of the objective is."""
    return Path(settings.train.folder) / settings.objective.name


def train(
    settings: TrainRoot,
    trackers: Mapping[str, Tracker] | None = None,
    base: Settings | None = None,
) -> dict[str, Any]:
    """Train the objective to its last step; returns the record. A finished one is only read.

    `base`: settings of a generation, whose model a LoRA or a fine-tuning starts from.

    Raises UserError for settings or files that do not fit, KeyboardInterrupt when the user stops;
    the state that was saved last is whole in all cases.
    """
    check_values(settings)
    _check_start(settings)
    folder = part_folder(settings)
    check_writable(folder)
    with _workers(settings, base) as peers:
        return _train(settings, peers, base, trackers or {})


def _train(
    settings: TrainRoot, peers: Peers, base: Settings | None, trackers: Mapping[str, Tracker]
) -> dict[str, Any]:
    folder = part_folder(settings)
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    workshop = Workshop(settings, base)
    objective = objective_of(settings, workshop)
    chosen = _computed(settings, workshop)
    _check_same(folder, chosen)
    if settings.train.start and not (folder / LATEST).exists():
        start = _start(settings)
        adopt(objective.modules, start)
        if own_state := objective_state(start):
            getattr(objective, "restore", lambda state: None)(own_state)
    own, given = settings.optimiser, settings.train
    trainer = Trainer(
        objective,
        Schedule(**vars(settings.schedule)),
        OptimiserOptions(own.lr, (own.betas[0], own.betas[1]), own.weight_decay, own.eps),
        TrainOptions(**{n: getattr(given, n) for n in TrainOptions.__dataclass_fields__}),
        folder,
        fingerprint=_digest(chosen),
        peers=peers,
    )
    if trainer.step < given.steps:
        if peers.leads:
            write_text(folder / SETTINGS, json.dumps(chosen, indent=1) + "\n")
        _run(trainer, settings, trackers if peers.leads else {})
    record = _record(trainer, settings, workshop)
    if peers.leads:
        with trainer.averaged():
            getattr(objective, "export", lambda folder: None)(folder)
        write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def _run(trainer: Trainer, settings: TrainRoot, trackers: Mapping[str, Tracker]) -> None:
    if not trainer.peers.leads:
        trainer.run()
        return
    name, config = settings.objective.name, _config(settings)
    interrupt, status = Interrupt(), "failed"
    reporter = Reporter(trainer.folder, name, config, trackers, settings.train.steps, trainer.step)
    trainer.report, trainer.stop = reporter, lambda: interrupt.requested
    log.info("%s: step %d to %d in %s", name, trainer.step, settings.train.steps, trainer.folder)
    try:
        with interrupt, interrupt.deferred():
            trainer.run()
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        reporter.finish(status)


def objective_of(settings: TrainRoot, workshop: Workshop) -> Objective:
    """What the settings' `_target_` makes, which must be a function of this package."""
    target = settings.objective._target_
    module, _, name = target.rpartition(".")
    if not target.startswith(OWN):
        raise UserError(f"objective._target_={target} is refused: only '{OWN}' is called")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"objective._target_={target} does not exist") from None
    return make(settings.objective, workshop)


def check_values(settings: TrainRoot) -> None:
    """Raise UserError for a value that means nothing."""
    given = settings.train
    for key, chosen, known in (
        ("train.dtype", given.dtype, DTYPES),
        ("schedule.shape", settings.schedule.shape, SHAPES),
    ):
        if chosen not in known:
            raise UserError(f"{key}={chosen} is unknown{nearest(chosen, known)}; use {_or(known)}")
    for key in ("steps", "log_every", "evaluate_every", "save_every", "workers"):
        if getattr(given, key) < 1:
            raise UserError(f"train.{key}={getattr(given, key)} must be at least 1")
    for key, value, low, high in (
        ("train.average", given.average, 0, 1), ("train.clip", given.clip, 0, float("inf")),
        ("optimiser.lr", settings.optimiser.lr, 0, float("inf")),
        ("schedule.hold", settings.schedule.hold, 0, 1),
        ("schedule.floor", settings.schedule.floor, 0, 1),
    ):  # fmt: skip
        if not low <= value <= high:
            raise UserError(f"{key}={value:g} must be from {low} to {high:g}")
    if len(settings.optimiser.betas) != 2:
        raise UserError(f"optimiser.betas={settings.optimiser.betas} must be two numbers")


def _check_start(settings: TrainRoot) -> None:
    if settings.train.start and not (part_folder(settings) / LATEST).exists():
        _start(settings)


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _start(settings: TrainRoot) -> Path:
    path = Path(settings.train.start)
    path = path / LATEST if path.is_dir() else path
    if not path.is_file():
        raise MissingFile(f"train.start={path} does not exist; give the state of a training")
    return path


def _config(settings: TrainRoot) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def _computed(settings: TrainRoot, workshop: Workshop) -> dict[str, Any]:
    """What the weights depend on, with dotted keys: settings, architecture, parts used."""
    config = _config(settings)
    kept = {n: config[n] for n in ("train", "objective", "data", "optimiser", "schedule", "base")}
    kept["architecture"] = workshop.architecture
    kept["parts"] = {part: facts["step"] for part, facts in workshop.states.items()}
    return {key: value for key, value in flat(kept).items() if key not in FREE}


def _digest(chosen: Mapping[str, Any]) -> str:
    text = json.dumps(chosen, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_same(folder: Path, chosen: Mapping[str, Any]) -> None:
    """Raise UserError naming what differs from the settings that the state was trained with."""
    path = folder / SETTINGS
    if not (folder / LATEST).exists() or not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(chosen))
    changed = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    if changed:
        key = min(changed)
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} was trained with {key}={before.get(key)}, not {now.get(key)}{more}; use"
            " that value, or another train.folder or objective.name"
        )


def _record(trainer: Trainer, settings: TrainRoot, workshop: Workshop) -> dict[str, Any]:
    return {
        "objective": settings.objective.name,
        "steps": trainer.step,
        "seconds": round(trainer.seconds),
        "workers": settings.train.workers,
        "threads": torch.get_num_threads(),
        "dtype": settings.train.dtype,
        "seed": settings.train.seed,
        "figures": last_figures(trainer.folder),
        "stands_on": {part: facts["step"] for part, facts in workshop.states.items()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


@contextmanager
def _workers(settings: TrainRoot, base: Settings | None) -> Iterator[Peers]:
    """This process as the first of train.workers; the others end with it."""
    count = settings.train.workers
    if count == 1:
        yield Peers()
        return
    # What is made once, such as encoded clips, is made before the others start.
    objective_of(settings, Workshop(settings, base))
    meeting = part_folder(settings) / f".meeting-{uuid.uuid4().hex[:8]}"
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_work, args=(settings, base, rank, count, meeting), daemon=True)
        for rank in range(1, count)
    ]
    for process in others:
        process.start()
    try:
        yield Peers.join(0, count, meeting)
    except RuntimeError as error:
        codes = [process.exitcode for process in others]
        if any(codes):
            raise UserError(
                f"a worker ended with exit code {next(c for c in codes if c)}; the state of the"
                f" last save is whole: run the same command again ({_first(error)})"
            ) from error
        raise
    finally:
        for process in others:
            process.join(timeout=5)
            process.terminate()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        meeting.unlink(missing_ok=True)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:80]


def _work(settings: TrainRoot, base: Settings | None, rank: int, count: int, meeting: Path) -> None:
    """A worker process: Ctrl-C is the first one's business."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _train(settings, Peers.join(rank, count, meeting), base, {})


def is_finished(settings: TrainRoot) -> bool:
    """Whether the objective's state has reached its last step. Raises UserError if damaged."""
    path = part_folder(settings) / LATEST
    if not path.is_file():
        return False
    _, facts = load_state(path)
    return int(facts["step"]) >= settings.train.steps
