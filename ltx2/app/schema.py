"""The schema that every config file and override is checked against; imports no array framework."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from omegaconf import MISSING, DictConfig

from ltx2.errors import UserError
from ltx2.pipelines.settings import CacheSettings, SchedulerSettings, Settings


@dataclass
class BackendSettings:
    """The class that runs the ops and its device: auto, cpu, or what the framework calls it."""

    _target_: str = MISSING
    device: str = "auto"


@dataclass
class TorchSettings(BackendSettings):
    """attention: auto, sdpa, chunked, flash or sage; neighbourhood: plain or natten.

    compile: off, blocks (the transformer's blocks by torch.compile) or graphs (CUDA graphs, too).
    """

    attention: str = "auto"
    neighbourhood: str = "plain"
    compile: str = "off"


@dataclass
class MlxSettings(BackendSettings):
    """MLX chooses its own kernels."""


@dataclass
class SchedulerSchema(SchedulerSettings):
    """`sigmas` is checked after composition: a typed list could not refer to `schedules`."""

    sigmas: Any = None


@dataclass
class SweepSettings:
    """How a multirun (-m) is laid out and run.

    `name` begins the sweep's folder name. `zip` lists axes that advance together: one list of
    keys, or a list of such lists. `cells` is a YAML file with a list of override tables, one per
    cell. `order` is auto (cells that share a model, LoRAs and prompt run one after another) or
    given. `grid` gives axes from a file: lists of values by key; the command line's own come first.
    The sweep stops after `max_failures` failed cells; `dry_run` only prints the grid.
    """

    name: str = ""
    zip: list[Any] = field(default_factory=list)
    cells: str = ""
    grid: dict[str, Any] = field(default_factory=dict)
    order: str = "auto"
    max_failures: int | None = None
    dry_run: bool = False
    optimize: OptimizeSettings = field(default_factory=lambda: OptimizeSettings())


@dataclass
class OptimizeSettings:
    """A search (Optuna) over the swept values instead of the whole grid.

    `metrics` are names of metrics, `directions` minimize or maximize for each (empty: what is
    better in that metric), `trials` how many cells are completed; 0 trials: no search. `sampler`
    is tpe, random, grid or nsga2. `batch` cells are asked for at a time (0: as many as the
    launcher runs at a time); a search learns from those before.
    """

    metrics: list[str] = field(default_factory=list)
    directions: list[str] = field(default_factory=list)
    trials: int = 0
    sampler: str = "tpe"
    seed: int = 0
    batch: int = 0


@dataclass
class EvaluateSettings:
    """task=evaluate: `count` held-out prompts with 1 or 2 `things`, drawn by `seed`.

    `keep`: the clips stay in the run's folder.
    """

    count: int = 24
    things: int = 1
    seed: int = 0
    keep: bool = False


@dataclass
class Root(Settings):
    """Everything `launch.py` accepts. `debug` shows tracebacks; `plan` only prints what would run.

    `download` fetches the files that the run needs and this machine lacks. `debug_dtypes` ends the
    run at the first product of arrays of different dtypes.

    `metrics` and `logger` are tables of objects by name, each with its `_target_`.
    """

    task: str = "generate"
    debug: bool = False
    debug_dtypes: bool = False
    plan: bool = False
    download: bool = False
    cache: CacheSettings = field(default_factory=CacheSettings)
    metrics: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSchema)
    backend: BackendSettings = field(default_factory=BackendSettings)


def settings_of(config: DictConfig) -> Root:
    """The composed config as plain dataclasses, every reference resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, Root)
    scheduler = settings.scheduler
    values = {item.name: getattr(scheduler, item.name) for item in fields(SchedulerSettings)}
    values["sigmas"] = _sigmas(scheduler.sigmas)
    return replace(settings, scheduler=SchedulerSettings(**values))


def _sigmas(value: Any) -> list[float] | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not numbers:
        raise UserError(f"scheduler.sigmas={value} is not a list of numbers such as [1.0,0.5,0.0]")
    return [float(item) for item in value]


def register_schema() -> None:
    """Store the schema and the resolvers of the config files; each call begins a new stamp."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from ltx2.app.folders import stamp

    store = ConfigStore.instance()
    store.store(name="ltx2_schema", node=Root)
    store.store(group="schema/backend", name="torch", node=TorchSettings)
    store.store(group="schema/backend", name="mlx", node=MlxSettings)
    started = stamp()
    OmegaConf.register_new_resolver("ltx2.stamp", lambda: started, use_cache=True, replace=True)
