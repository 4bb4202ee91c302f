"""What is known of a device without loading its framework: noted by runs, read by plans."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
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
    free_bytes_then: int

    def describe(self) -> dict[str, Any]:
        """As the backend said."""
        return dict(self.description)


def facts_of(backend: Any) -> DeviceFacts:
    """The facts of an open backend."""
    return DeviceFacts(
        backend.kind, bool(backend.fast_bf16), dict(backend.describe()), int(backend.free_bytes())
    )


def remember(outputs: Path, options: Any, backend: Any) -> None:
    """Note the facts of `backend`, which was made from the settings `options`."""
    known = _read(outputs)
    entry = asdict(facts_of(backend))
    before = known.get(_key(options))
    # Free memory changes all the time; that alone is no reason to write.
    if before is not None and before | {"free_bytes_then": 0} == entry | {"free_bytes_then": 0}:
        return
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        write_text(outputs / FILE, json.dumps(known | {_key(options): entry}, indent=1) + "\n")
    except (OSError, ValueError) as error:
        log.debug("%s is not written: %s", FILE, error)


def recall(outputs: Path, options: Any, make_backend: Callable[[], Any]) -> DeviceFacts:
    """The noted facts for `options`, or those of the backend, which is then opened for them."""
    entry = _read(outputs).get(_key(options))
    if entry is not None:
        try:
            return DeviceFacts(**entry)
        except TypeError:
            log.debug("%s is of another version", FILE)
    backend = make_backend()
    remember(outputs, options, backend)
    return facts_of(backend)


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
