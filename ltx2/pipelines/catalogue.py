"""The pipelines and schedules of `conf/`, read as plain data (no Hydra)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.pipelines.settings import PipelineSettings, StageSettings

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """The folder of the config files: beside the package, or inside it when it was packaged."""
    for folder in (_PACKAGE.parent / "conf", _PACKAGE / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"no config files: {_PACKAGE.parent / 'conf'} has no config.yaml")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_pipeline(name: str) -> PipelineSettings:
    """The stages of conf/pipeline/`name`.yaml."""
    folder = conf_folder() / "pipeline"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = [p.stem for p in folder.glob("*.yaml")]
        raise UserError(f"pipeline={name} is unknown{nearest(name, names)}")
    content = _read(path)
    content = content.get("pipeline", content)
    known = {item.name for item in fields(StageSettings)}
    for stage in content["stages"]:
        if unknown := set(stage) - known:
            raise UserError(f"{path.name}: stage '{stage.get('name')}' has no {sorted(unknown)}")
    stages = [StageSettings(**stage) for stage in content["stages"]]
    return PipelineSettings(content["name"], stages)


def load_schedules() -> dict[str, list[float]]:
    """The named sigma lists of conf/config.yaml."""
    return _read(conf_folder() / "config.yaml")["schedules"]
