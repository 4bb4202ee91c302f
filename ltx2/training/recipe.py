"""A whole model: the stages of a recipe one after another, and its files at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx2.errors import UserError, nearest
from ltx2.experiment.trackers.base import Tracker
from ltx2.nn.module import slots
from ltx2.training.adapters import FILE as LORA
from ltx2.training.checkpoint import LATEST
from ltx2.training.export import write_gemma, write_lora, write_monolith, write_upsampler
from ltx2.training.modules import Modules, adopt
from ltx2.training.running import RECORD, is_finished, train
from ltx2.training.settings import StageEntry, TrainRoot
from ltx2.training.workshop import MAKERS, Workshop

log = logging.getLogger(__name__)

DOINGS = ("train", "export")
MODEL = "ltx-2-pocket.safetensors"
UPSCALER = "ltx-2-pocket-spatial-upscaler-x2.safetensors"
DISTILLED = "ltx-2-pocket-distilled-lora.safetensors"
# Rank of the distilled LoRA, which holds most of a full difference.
RANK = 16

Compose = Callable[[Sequence[str]], TrainRoot]
Loggers = Callable[[TrainRoot], Mapping[str, Tracker]]


def run_recipe(settings: TrainRoot, compose: Compose, loggers: Loggers) -> None:
    """Run the recipe's stages in order; those whose state has its last step are skipped.

    `compose` makes the settings of a stage from its options.
    """
    stages = settings.recipe.stages
    made = [(stage, compose(stage_options(stage, settings))) for stage in stages]
    for stage, own in made:
        _check(stage, own)
    for number, (stage, own) in enumerate(made, 1):
        where = f"stage {number} of {len(made)}, {stage.name}"
        if stage.do == "export":
            folder = export_model(own)
            log.info("%s: the model is in %s", where, folder)
        elif is_finished(own):
            log.info("%s: finished already", where)
        else:
            log.info("%s", where)
            train(own, loggers(own))


def stage_options(stage: StageEntry, settings: TrainRoot) -> list[str]:
    """The options of a stage, after those that hold for all."""
    shared = [f"train.folder={settings.train.folder}", f"paths.outputs={settings.paths.outputs}"]
    named = [f"objective.name={stage.name}"] if stage.do == "train" else []
    return [*shared, *named, *settings.recipe.options, *stage.options]


def _check(stage: StageEntry, own: TrainRoot) -> None:
    if stage.do not in DOINGS:
        hint = nearest(stage.do, DOINGS)
        raise UserError(f"stage '{stage.name}' does '{stage.do}'{hint}; use {' or '.join(DOINGS)}")
    if own.recipe.stages:
        raise UserError(f"stage '{stage.name}' has a recipe of its own; give an objective")


def export_model(settings: TrainRoot) -> Path:
    """Write the files of the model that stands in train.folder; returns their folder."""
    workshop = Workshop(settings)
    parts = {part: workshop.finished(part) for part in MAKERS}
    folder = Path(settings.train.folder) / settings.recipe.export
    facts = {"stages": _records(settings)}
    architecture = workshop.architecture
    write_monolith(folder / MODEL, architecture, parts, facts=facts)
    write_upsampler(folder / UPSCALER, architecture, parts, facts=facts)
    _copy_small_files(workshop.gemma_folder, folder / "gemma")
    write_gemma(folder / "gemma", workshop.gemma_config, parts["flow"]["gemma"], facts=facts)
    student = Path(settings.train.folder) / "distil" / LATEST
    if student.is_file():
        changed = workshop.fresh("flow")
        adopt({"student": changed["transformer"]}, student)
        factors = low_rank_difference(parts["flow"], changed, RANK)
        write_lora(folder / DISTILLED, factors, facts=facts)
    for path in sorted(Path(settings.train.folder).glob(f"*/{LORA}")):
        target = folder / f"ltx-2-pocket-{path.parent.name.replace('_', '-')}.safetensors"
        target.write_bytes(path.read_bytes())
    return folder


def low_rank_difference(
    base: Modules, changed: Modules, rank: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors (r, in), (out, r) of the differences between the linear layers of two transformers.

    The best of that rank, by singular values. What is not a matrix is left out.
    """
    before = {slot.name: slot.value for slot in slots(base["transformer"])}
    factors = {}
    for slot in slots(changed["transformer"]):
        layer, _, kind = slot.name.rpartition(".")
        if kind != "weight" or not isinstance(slot.value, Tensor) or slot.value.ndim != 2:
            continue
        difference = slot.value.float() - before[slot.name].float()
        left, sizes, right = torch.linalg.svd(difference, full_matrices=False)
        root = sizes[:rank].sqrt()
        factors[layer] = root[:, None] * right[:rank], left[:, :rank] * root
    return factors


def _records(settings: TrainRoot) -> dict[str, Any]:
    """How every part was trained, by its folder."""
    found = {}
    for path in sorted(Path(settings.train.folder).glob(f"*/{RECORD}")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.name] = record
    return found


def _copy_small_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
