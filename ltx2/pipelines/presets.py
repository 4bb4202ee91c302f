"""What a model is meant to be run with, chosen by the version that its checkpoint states.

The rows are the files of conf/release, read as data. Source: spec pipelines.md section 1.1.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.pipelines.catalogue import conf_folder
from ltx2.pipelines.files import PACKAGE, find_files, places
from ltx2.pipelines.prompts import negative_prompt
from ltx2.pipelines.settings import (
    GuidanceSettings,
    ModelFile,
    ModelSettings,
    Preset,
    Settings,
    StreamGuidance,
)
from ltx2.weights.checkpoint import SPLIT_PARTS, identify, is_split
from ltx2.weights.header import Header, read_header

log = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class Release:
    """A row: the version it begins with, the files beside the checkpoint, the preset."""

    generation: str
    files: dict[str, ModelFile]
    preset: Preset

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.generation.split("."))


def releases() -> list[Release]:
    """All rows, the oldest first."""
    rows = [_release(_composed(path)) for path in (conf_folder() / "release").glob("*.yaml")]
    return sorted(rows, key=lambda row: row.version)


def release_of(version: tuple[int, ...]) -> Release:
    """The newest row not above `version`; the oldest for an unreadable or older version."""
    rows = releases()
    reached = [row for row in rows if row.version <= version]
    return reached[-1] if reached else rows[0]


def with_release(settings: Settings) -> Settings:
    """Fill in what the model leaves to its checkpoint: kind, preset, names of the other files.

    A negative prompt of the preset that is a packaged file becomes its text.
    """
    model = settings.model
    if model.release or not model.kind:
        header = _checkpoint(settings)
        model = _with_preset(model, header)
        if header is None:
            find_files(dataclasses.replace(settings, model=model))  # says what is absent
            raise AssertionError("a checkpoint is always needed")
        model = _with_kind(model, header)
    return dataclasses.replace(settings, model=_with_negative_prompt(model))


def warn_of_other_release(model: ModelSettings, checkpoint: Header) -> None:
    """Say so when a named model's files were replaced by those of another generation."""
    found = identify(checkpoint).generation
    if "unknown" != found != model.generation != "":
        log.warning(
            "model=%s has the preset of LTX-%s, but %s is LTX-%s; model=path takes the file's own",
            model.name, model.generation, checkpoint.path.name, found,
        )  # fmt: skip


def _checkpoint(settings: Settings) -> Header | None:
    file = settings.model.files.get("checkpoint", ModelFile()).file
    found = places(file, Path(settings.paths.models).expanduser()) if file else ()
    path = next((place for place in found if place.exists()), None)
    return None if path is None else read_header(path)


def _with_preset(model: ModelSettings, header: Header | None) -> ModelSettings:
    if not model.release:
        return model
    if model.release == AUTO:
        row = release_of(() if header is None else header.model_version)
    else:
        rows = {row.generation: row for row in releases()}
        if model.release not in rows:
            hint = nearest(model.release, [AUTO, *rows])
            known = ", ".join([AUTO, *rows])
            raise UserError(f"model.release={model.release} is unknown{hint}; use {known}")
        row = rows[model.release]
    given = {role: file for role, file in model.files.items() if file.file}
    usual = dict(row.files)
    if header is not None and not is_split(header):
        usual = {role: file for role, file in usual.items() if role not in SPLIT_PARTS}
    found = "" if header is None else identify(header).generation
    return dataclasses.replace(
        model,
        generation=model.generation or ("" if found == "unknown" else found) or row.generation,
        release=row.generation,
        files=usual | given,
        preset=row.preset,
    )


def _with_kind(model: ModelSettings, header: Header) -> ModelSettings:
    """The kind that the file's metadata or name tells, where none is given."""
    if model.kind:
        return model
    identity = identify(header)
    if identity.training == "unknown" and identity.kind == "model":
        raise UserError(
            f"{header.path.name} does not say whether it is a dev or a distilled model;"
            " give model.kind=dev or model.kind=distilled"
        )
    # A file of another kind is refused with its own words later.
    return dataclasses.replace(
        model, kind="any" if identity.training == "unknown" else identity.training
    )


def _with_negative_prompt(model: ModelSettings) -> ModelSettings:
    text = model.preset.negative_prompt
    if not text.startswith(PACKAGE):
        return model
    text = negative_prompt(places(text, Path())[0])
    preset = dataclasses.replace(model.preset, negative_prompt=text)
    return dataclasses.replace(model, preset=preset)


def _composed(path: Path) -> dict[str, Any]:
    """A file with the files of its defaults list below it."""
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    result: dict[str, Any] = {}
    for name in content.pop("defaults", []):
        if name != "_self_":
            result = _merged(result, _composed(path.with_name(f"{name}.yaml")))
    return _merged(result, content)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, mappings key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _release(content: dict[str, Any]) -> Release:
    files = {role: ModelFile(**values) for role, values in content["files"].items()}
    preset = dict(content["preset"])
    streams = {name: StreamGuidance(**given) for name, given in preset.pop("guidance").items()}
    guidance = GuidanceSettings(video=streams["video"], audio=streams["audio"])
    return Release(content["generation"], files, Preset(**preset, guidance=guidance))
