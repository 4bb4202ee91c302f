"""The two implementations of the ops; each is imported only when its arrays are used."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ltx2.errors import UserError, nearest

CLASSES = {"torch": "TorchBackend", "mlx": "MlxBackend"}


def installed() -> list[str]:
    """Names of the backends whose framework is installed, torch first. Imports neither."""
    return [name for name in CLASSES if importlib.util.find_spec(name)]


def open_backend(name: str, **options: Any) -> Any:
    """The backend object `name` (torch or mlx) with its options, such as device=cpu.

    Raises UserError for an unknown name, a framework that is not installed, or a device that is
    not there.
    """
    if name not in CLASSES:
        known = " or ".join(CLASSES)
        raise UserError(f"backend={name} is unknown; use {known}{nearest(name, CLASSES)}")
    if name not in installed():
        raise UserError(
            f"backend={name}: the package '{name}' is not installed; install it with"
            f" pip install 'ltx2[{name}]'"
        )
    return getattr(importlib.import_module(f"ltx2.backends.{name}"), CLASSES[name])(**options)
