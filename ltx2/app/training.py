"""`task=train`: its config root, schema and errors; the training itself is in `ltx2.training`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.errors import UserError
from ltx2.pipelines.catalogue import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ltx2.app.schema import Root
    from ltx2.training.settings import TrainRoot

log = logging.getLogger(__name__)

TASK = "task=train"
# Groups of generation that training has, too.
SHARED = ("logger", "paths")
# The group of generation that chooses what a LoRA or a fine-tuning starts from.
_BASE = "model"


def is_training(overrides: Sequence[str]) -> bool:
    """Whether these options are those of a training."""
    return TASK in overrides


def training_folder() -> Path:
    """The config root of trainings."""
    return conf_folder() / "training"


def training_groups(known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Groups and options of a training; `known` are those of generation."""
    from ltx2.app.groups import groups

    return groups(training_folder()) | {name: known[name] for name in SHARED}


def with_base(arguments: Sequence[str]) -> list[str]:
    """Options that choose a model, such as model=dev, as entries of `base`."""
    chosen = [a for a in arguments if a.partition("=")[0].partition(".")[0] == _BASE]
    if not chosen:
        return list(arguments)
    quoted = ",".join("'" + text.replace("'", "\\'") + "'" for text in chosen)
    return [*(a for a in arguments if a not in chosen), f"base=[{quoted}]"]


def check_training(arguments: Sequence[str]) -> None:
    """Refuse what trainings do not take. Raises UserError."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("task=train takes no -m: one training at a time, or a recipe=NAME")


def variant(group: str, overrides: Sequence[str]) -> Any:
    """The schema of the chosen option of `objective` or `data`; None for other groups."""
    from ltx2.training import settings

    tables: dict[str, tuple[dict[str, Any], str]] = {
        "objective": (settings.OBJECTIVES, "video_vae"),
        "data": (settings.DATA, "pocket"),
    }
    if group not in tables:
        return None
    table, chosen = tables[group]
    for text in overrides:
        name, _, value = text.partition("=")
        chosen = value if name == group else chosen
    return table.get(chosen, table.get(chosen.partition("_")[0]))


def register_training_schema() -> None:
    """Store the schema of trainings for Hydra."""
    from hydra.core.config_store import ConfigStore

    from ltx2.app.schema import register_schema
    from ltx2.training import settings

    register_schema()
    store = ConfigStore.instance()
    store.store(name="ltx2_training_schema", node=settings.TrainRoot)
    for name, kind in settings.OBJECTIVES.items():
        store.store(group="schema/objective", name=name, node=kind)
    for name, node in settings.DATA.items():
        store.store(group="schema/data", name=name, node=node)


def training_settings(config: DictConfig) -> TrainRoot:
    """The composed config as plain dataclasses. Raises UserError for missing values."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ltx2.training.settings import TrainRoot

    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, TrainRoot)
    return settings


def compose_training(overrides: Sequence[str] = ()) -> TrainRoot:
    """The settings of `task=train` for `overrides`, from Python or for a stage of a recipe."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins

    from ltx2.app.search_path import Ltx2SearchPath

    register_training_schema()
    Plugins.instance().register(Ltx2SearchPath)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(training_folder()), version_base="1.3"):
            written = [text for text in with_base(list(overrides)) if text != TASK]
            return training_settings(hydra.compose("config", overrides=written))
    finally:
        GlobalHydra.instance().hydra = before


def run(config: DictConfig) -> None:
    """Train what Hydra composed: one objective, or all stages of a recipe."""
    settings = training_settings(config)
    from ltx2.training.recipe import run_recipe
    from ltx2.training.running import train

    if settings.recipe.stages:
        run_recipe(settings, compose_training, _loggers)
        return
    record = train(settings, _loggers(settings), base_settings(settings))
    log.info(
        "%s: %d steps in %.0f s; its state is in %s",
        settings.objective.name,
        record["steps"],
        record["seconds"],
        Path(settings.train.folder) / settings.objective.name,
    )


def base_settings(settings: TrainRoot) -> Root | None:
    """The settings of a generation with the model that `base` names; None without any."""
    from ltx2.app.compose import compose

    if not settings.base:
        return None
    models = f"paths.models={settings.paths.models}"
    return compose(["pipeline=one_stage", models, *settings.base])


def _loggers(settings: TrainRoot) -> dict[str, Any]:
    from ltx2.app.build import build_table

    return build_table("logger", settings.logger)
