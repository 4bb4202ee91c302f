"""What is known of a device without loading its framework: noted by runs, read by plans."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ltx2.experiment.record import write_text

log = logging.getLogger(__name__)

FILE = "devices.json"


@dataclass(frozen=True)
class DeviceFacts:
    """Stands for a backend where only its description is asked for."""

    kind: str
    fast_bf16: bool
    description: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """As the backend said."""
        return dict(self.description)


def facts_of(backend: Any) -> DeviceFacts:
    """The facts of an open backend."""
    return DeviceFacts(backend.kind, bool(backend.fast_bf16), dict(backend.describe()))


def remember(outputs: Path, options: Any, backend: Any) -> None:
    """Note the facts of `backend`, which was made from the settings `options`."""
    known = _read(outputs)
    entry = asdict(facts_of(backend))
    if known.get(_key(options)) == entry:
        return
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        write_text(outputs / FILE, json.dumps(known | {_key(options): entry}, indent=1) + "\n")
    except (OSError, ValueError) as error:
        log.debug("%s is not written: %s", FILE, error)


def recall(outputs: Path, options: Any) -> DeviceFacts | None:
    """The noted facts for the settings `options`; None before the first run with them."""
    entry = _read(outputs).get(_key(options))
    try:
        return None if entry is None else DeviceFacts(**entry)
    except TypeError:
        log.debug("%s is of another version", FILE)
        return None


def _key(options: Any) -> str:
    """Machine, backend settings and framework versions."""
    packages = []
    for package in ("torch", "mlx"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return json.dumps([platform.node(), asdict(options), packages], sort_keys=True)


def _read(outputs: Path) -> dict[str, Any]:
    try:
        found = json.loads((outputs / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
