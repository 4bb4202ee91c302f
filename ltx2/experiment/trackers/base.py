"""What a tracker is told about runs and sweeps, and what all trackers share."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from ltx2.errors import UserError

NAME_LENGTH = 60
_TEXTS = {"prompt", "negative_prompt", "system_prompt", "enhanced_prompt", "text"}
_PLACES = {"paths", "path", "files", "file", "folder", "video", "audio", "latents", "mask", "cells"}


@dataclass(frozen=True)
class RunInfo:
    """A run as it begins.

    `run` and `cell` are 12 hex digits, `values` the swept keys of the cell, `started` ISO 8601 UTC.
    """

    run: str
    cell: str
    sweep: str | None
    name: str
    folder: Path
    tags: tuple[str, ...]
    values: dict[str, Any]
    started: str


class Tracker(Protocol):
    """Receives runs one after another: `start`, any number of `step`, `finish`."""

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """A run begins; `config` is the resolved config."""

    def step(self, record: dict[str, Any]) -> None:
        """A line of steps.jsonl."""

    def finish(self, record: dict[str, Any]) -> None:
        """The content of run.json; called in all cases, also after a failure."""

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """plan.json, summary.json and the folders of the cells lie in `folder`."""


def run_name(config: dict[str, Any], values: dict[str, Any]) -> str:
    """What to call a run: its swept values, or else how its prompt begins, with the seed.

    At most `NAME_LENGTH` characters. A private run (output.private) is called after its pipeline.
    """
    if is_private(config):
        values = shareable(values)
    if values:
        text = ", ".join(f"{_short(key)}={value}" for key, value in values.items())
        return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
    words = re.findall(r"\w+", config.get("prompt", ""))
    if is_private(config) or not words:
        words = [config["pipeline"]["name"]]
    start = "-".join(words[:6])[: NAME_LENGTH - 16].strip("-")
    return f"{start}-seed{config['seed']}"


def _short(key: str) -> str:
    """The last word of a dotted key, with the one before where the last says too little."""
    words = key.split(".")
    vague = words[-1] in ("strength", "cfg", "stg", "kind", "path", "name", "rescale", "modality")
    return ".".join(words[-2:] if vague else words[-1:])


def is_private(config: dict[str, Any]) -> bool:
    """Whether prompts and paths stay on this machine."""
    return bool(config.get("output", {}).get("private", False))


def shareable(table: dict[str, Any]) -> dict[str, Any]:
    """`table`, nested or with dotted keys, without prompts and without paths."""
    kept = {}
    for key, value in table.items():
        last = key.rpartition(".")[2]
        if last in _TEXTS or last in ("paths", "files") or (last in _PLACES and _plain(value)):
            continue
        if isinstance(value, dict):
            kept[key] = shareable(value)
        elif not any("/" in text or "\\" in text for text in _strings(value)):
            kept[key] = value
    return kept


def _plain(value: Any) -> bool:
    return not isinstance(value, dict)


def _strings(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [str(item) for item in items]


def shown(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config may leave this machine: all of it, unless the run is private."""
    return shareable(config) if is_private(config) else config


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def outputs_of(config: dict[str, Any]) -> Path:
    """The folder that all runs lie in."""
    return Path(config.get("paths", {}).get("outputs", "outputs"))


def need(package: str) -> None:
    """Raise UserError if the package of an option, which has its name, is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:  # a folder of that name here is no package
        raise UserError(f"logger={package} needs {package}; pip install 'ltx2[{package}]'")


class Option:
    """Base of the trackers chosen with logger=NAME; their fields are the keys of that option."""

    NAME: ClassVar[str]

    def check(self) -> None:
        """Raise UserError for a field whose value has another type than it is declared with."""
        hints = get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            value, hint = getattr(self, item.name), hints[item.name]
            if item.init and not _fits(value, hint):
                wanted = " or ".join(_said(kind) for kind in _kinds(hint))
                raise UserError(f"logger.{self.NAME}.{item.name}={value} is not {wanted}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for kind in _kinds(hint):
        if get_origin(kind) is list:
            good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        elif kind is float:
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
        else:
            good = isinstance(value, kind)
        if good:
            return True
    return False


def _said(kind: Any) -> str:
    if get_origin(kind) is list:
        return "a list of texts such as [a,b]"
    names = {str: "a text", bool: "true or false", float: "a number", type(None): "null"}
    return names[kind]
