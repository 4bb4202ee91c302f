"""Reading what a run left behind, however far it got; nothing here raises on a damaged file.

Files are parsed once per version of theirs (size and time of change), so that a served page can be
refreshed every two seconds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

# The keys that say where and how a run was started, not what it computes.
VOLATILE = (
    "paths.", "cache.", "logger.", "sweep.", "hydra.", "task", "plan", "debug", "keep_loaded",
    "preview.",
)  # fmt: skip
CURVE_POINTS = 240
MEDIA = {
    ".mp4": "video", ".webm": "video", ".gif": "picture", ".png": "picture", ".wav": "sound",
}  # fmt: skip


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when it is missing, damaged or no object."""
    found = _read(path, _parse_object)
    return found if isinstance(found, dict) else None


def table(value: Any) -> dict[str, Any]:
    """A value that should be a table; {} when it is none."""
    return value if isinstance(value, dict) else {}


def tables(value: Any) -> list[dict[str, Any]]:
    """The tables of a value that should be a list of them."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that is still being written is left out."""
    return _read(path, _parse_lines) or []


def read_config(path: Path) -> dict[str, Any]:
    """A config.yaml as plain data, {} when it cannot be read."""
    return table(_read(path, _parse_yaml))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as {"a.b.0.c": leaf}; a list of plain values stays one leaf."""
    if isinstance(value, dict) and value:
        items: Iterator[tuple[str, Any]] = ((str(name), item) for name, item in value.items())
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = ((str(index), item) for index, item in enumerate(value))
    else:
        return {key: value}
    leaves: dict[str, Any] = {}
    for name, item in items:
        leaves |= flat(item, f"{key}.{name}" if key else name)
    return leaves


def run_settings(folder: Path, record: dict[str, Any] | None) -> dict[str, Any]:
    """The flat resolved settings of a run without what cannot change its result."""
    nested = table((record or {}).get("settings")) or read_config(folder / "config.yaml")
    return {k: v for k, v in flat(nested).items() if k and not k.startswith(VOLATILE)}


def link(root: Path, folder: Path, name: str) -> str:
    """URL of `folder`/`name` relative to a page in `root`, '' when it is absent or outside."""
    path = folder / name
    try:
        if not name or not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
            return ""
        inside = PurePosixPath(os.path.relpath(path, root).replace(os.sep, "/"))
    except (OSError, ValueError):
        return ""
    # "./" keeps a first segment with a colon from being read as a scheme.
    return "./" + "/".join(quote(part) for part in inside.parts)


def run_files(root: Path, folder: Path, record: dict[str, Any] | None) -> dict[str, str]:
    """URLs of the run's media and papers, those that exist: media, kind, sheet, record, log ..."""
    listed = table((record or {}).get("files"))
    named = {key: name for key, name in listed.items() if isinstance(name, str)}
    found: dict[str, str] = {}
    media = [named.get("video", ""), named.get("audio", ""), "video.mp4", "video.webm", "video.gif",
             "audio.wav", "video-partial.mp4", "video-partial.webm"]  # fmt: skip
    for name in media:
        kind = MEDIA.get(PurePosixPath(name).suffix.lower())
        url = link(root, folder, name) if kind else ""
        if url:
            found |= {"media": url, "kind": str(kind)}
            break
    papers = {"sheet": named.get("sheet", "frames.png"), "record": "run.json", "log": "run.log",
              "config": "config.yaml"}  # fmt: skip
    return found | {key: url for key, name in papers.items() if (url := link(root, folder, name))}


def numbers(value: Any) -> dict[str, float | None]:
    """{name: number} of a metrics table; what is not a finite number becomes None."""
    return {str(name): short(item) for name, item in table(value).items()}


def step_columns(records: Any) -> dict[str, dict[str, list[float | None]]]:
    """{stage: {quantity: values}} of the lines of steps.jsonl."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in tables(records):
        stages.setdefault(str(line.get("stage", "")), []).append(line)
    columns = {}
    for stage, lines in stages.items():
        lines = _thinned(lines)
        names = [name for name in lines[0] if name != "stage" and short(lines[0][name]) is not None]
        columns[stage] = {name: [short(line.get(name)) for line in lines] for name in names}
    return columns


def curves(folder: Path) -> dict[str, dict[str, Any]]:
    """{metric: {x, y, x_unit, y_unit}} of the curves in metrics.jsonl."""
    found = {}
    for line in read_lines(folder / "metrics.jsonl"):
        x, y = line.get("x"), line.get("y")
        if isinstance(x, list) and isinstance(y, list) and len(x) == len(y) and x:
            pairs = _thinned(list(zip(x, y, strict=True)))
            found[str(line.get("metric"))] = {
                "x": [short(a) for a, _ in pairs],
                "y": [short(b) for _, b in pairs],
                "x_unit": str(line.get("x_unit") or ""),
                "y_unit": str(line.get("y_unit") or ""),
            }
    return found


def short(value: Any) -> float | None:
    """A number with six significant digits, None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")


def changed(folder: Path) -> float | None:
    """Seconds since 1970 of the run's last sign of life."""
    times = []
    for name in ("run.json", "steps.jsonl", "run.log", "config.yaml"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _thinned(rows: list[Any]) -> list[Any]:
    if len(rows) <= CURVE_POINTS:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        facts = path.stat()
        return _parsed(str(path), facts.st_mtime_ns, facts.st_size, parse)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _parsed(path: str, changed_ns: int, size: int, parse: Callable[[str], Any]) -> Any:
    return parse(Path(path).read_text(encoding="utf-8", errors="replace"))


def _parse_object(text: str) -> Any:
    return json.loads(text)


def _parse_lines(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            found.append(item)
    return found


def _parse_yaml(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
