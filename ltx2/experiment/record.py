"""The record of a run: everything needed to repeat it and to judge it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ltx2
from ltx2.media.atomic import replacing
from ltx2.pipelines.files import recorded_settings
from ltx2.pipelines.plan import Plan
from ltx2.pipelines.runner import Outcome
from ltx2.weights.header import header_hash

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
        if role in plan.headers:
            header = plan.headers[role]
            row |= {"bytes": header.file_size, "header_sha256": header_hash(header)}
        else:
            row["bytes"] = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
            hashes = [_file_header_hash(f) for f in sorted(path.glob("*.safetensors"))]
            row["header_sha256"] = hashlib.sha256("".join(hashes).encode()).hexdigest()
        rows.append(row)
    return rows


def _file_header_hash(path: Path) -> str:
    from ltx2.weights.header import read_header

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
        "frames": plan.frames,
        "fps": plan.fps,
        "weights": weights_record(plan),
        "sigmas": {s.name: list(s.sigmas) for s in plan.stages if s.sigmas is not None},
        "transformer_calls": sum(s.transformer_calls for s in plan.stages),
        "notices": list(plan.notices),
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
