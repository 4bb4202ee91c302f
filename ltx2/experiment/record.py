"""The record of a run: everything needed to repeat it and to judge it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ltx2
from ltx2.media.atomic import replacing
from ltx2.pipelines.cost import phase_costs
from ltx2.pipelines.files import recorded_settings
from ltx2.weights.header import header_hash, read_header

if TYPE_CHECKING:
    from ltx2.pipelines.plan import Plan
    from ltx2.pipelines.runner import Outcome

PACKAGES = ("numpy", "safetensors", "tokenizers", "av", "hydra-core", "torch", "mlx")


def versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    found = {"ltx2": ltx2.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def weights_record(plan: Plan) -> list[dict[str, Any]]:
    """Role, name, size and header hash of every weight file of the run."""
    rows = []
    for role, path in plan.files.items():
        row: dict[str, Any] = {"role": role, "name": path.name}
        if path.is_file():
            header = plan.headers[role] if role in plan.headers else read_header(path)
            row |= {"bytes": header.file_size, "header_sha256": header_hash(header)}
        else:
            row["bytes"] = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
            hashes = [_file_header_hash(f) for f in sorted(path.glob("*.safetensors"))]
            row["header_sha256"] = hashlib.sha256("".join(hashes).encode()).hexdigest()
        rows.append(row)
    return rows


def _file_header_hash(path: Path) -> str:
    return header_hash(read_header(path))


def build_record(
    plan: Plan, backend: Any, dtypes: dict[str, str], outcome: Outcome | None, status: str
) -> dict[str, Any]:
    """What run.json and the clip's comment tag hold. status: completed, failed or interrupted."""
    record: dict[str, Any] = {
        "status": status,
        "command": sys.argv[1:],
        "versions": versions(),
        "device": backend.describe(),
        "dtypes": dtypes,
        "seed": plan.settings.seed,
        "size": {"height": plan.height, "width": plan.width},
        "frames": plan.made_frames,
        "fps": plan.output_fps,
        "weights": weights_record(plan),
        "sigmas": {s.name: list(s.sigmas) for s in plan.stages if s.sigmas is not None},
        "transformer_calls": sum(s.transformer_calls for s in plan.stages),
        "notices": list(plan.notices),
        "costs": [
            {"phase": row.phase, "kind": row.kind, "operations": round(row.total)}
            for row in phase_costs(plan)
        ],
        "settings": recorded_settings(plan.settings),
    }
    if outcome is not None:
        phases = outcome.phases.records
        record |= {
            "phases": [phase.record() for phase in phases],
            "seconds": round(sum(phase.seconds for phase in phases), 3),
            "peak_rss_bytes": max((p.peak_rss_bytes for p in phases), default=None),
            "stages": outcome.stages,
            "text": outcome.text,
            "enhanced_prompt": outcome.enhanced_prompt,
            "statistics": outcome.statistics,
            "warnings": outcome.checks.warnings,
            "steps": outcome.steps,
        }
    return record


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(record: dict[str, Any], indent: int | None = None) -> str:
    """JSON of a record; NaN and Inf, which JSON cannot say, become null."""
    return json.dumps(_sayable(record), indent=indent, ensure_ascii=False, allow_nan=False)


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """run.json in `folder`."""
    write_text(folder / "run.json", to_json(record, indent=1) + "\n")


# What a private record leaves out: its own keys, those of settings, and media within settings.
_PRIVATE = ("command", "overrides", "values", "sweep", "enhanced_prompt", "partial")
_PRIVATE_SETTINGS = ("paths", "cache", "logger", "sweep")
_PRIVATE_TEXTS = ("prompt", "negative_prompt", "system_prompt")
_PRIVATE_MEDIA = ("video", "audio", "latents", "mask", "path")
# Shorter texts are found in places where they tell nothing.
_TELLING = 4


def private_record(record: dict[str, Any]) -> dict[str, Any]:
    """`record` without prompts, folders, names of input media, command and overrides.

    Names of weight files stay. Lines of the log that quote any of what is left out go with it.
    """
    settings = record.get("settings", {})
    hidden = {text for text in _hidden_texts(settings) if len(text) >= _TELLING}
    places = {str(path) for path in (Path.home(), Path.cwd()) if path != Path(path.anchor)}
    hidden |= places | {str(record.get("enhanced_prompt") or "")}
    kept = {key: value for key, value in record.items() if key not in _PRIVATE}
    if "error" in kept:
        kept["error"] = str(kept["error"]).partition(":")[0]
    kept["settings"] = {
        key: _public(key, value, media=key in ("input", "conditioning"))
        for key, value in settings.items()
        if key not in (*_PRIVATE_SETTINGS, *_PRIVATE_TEXTS)
    }
    return {"private": True} | _without(kept, hidden - {""})


def _public(name: str, value: Any, media: bool) -> Any:
    """A setting without texts, media and folders; of weights and other files the name stays."""
    if isinstance(value, dict):
        return {
            key: _public(key, item, media)
            for key, item in value.items()
            if key not in _PRIVATE_TEXTS and not (media and key in _PRIVATE_MEDIA)
        }
    if isinstance(value, (list, tuple)):
        return [_public(name, item, media) for item in value]
    is_path = isinstance(value, str) and name != "source" and not value.startswith("package:")
    return value.replace("\\", "/").rpartition("/")[2] if is_path else value


def _hidden_texts(settings: dict[str, Any]) -> set[str]:
    """Prompts, and the paths and names of input media."""
    texts = {settings.get(key) for key in _PRIVATE_TEXTS}
    tables = [settings.get("input", {}), *settings.get("conditioning", {}).values()]
    for path in (table.get(key) for table in tables for key in _PRIVATE_MEDIA):
        texts |= {path, Path(path).name} if path and not path.startswith("package:") else set()
    return {text for text in texts if isinstance(text, str)}


def _without(value: Any, hidden: set[str]) -> Any:
    """`value` without the texts that contain any of `hidden`; they leave lists, else are empty."""
    if isinstance(value, dict):
        return {key: _without(item, hidden) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        found = [_without(item, hidden) for item in value]
        return [new for new, old in zip(found, value, strict=True) if new != "" or old == ""]
    tells = isinstance(value, str) and any(text in value for text in hidden)
    return "" if tells else value
