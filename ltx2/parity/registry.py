"""Which function runs which component of a golden case."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Outputs = dict[str, np.ndarray]
Runner = Callable[["Case"], Outputs]
RUNNERS: dict[str, Runner] = {}


@dataclass(frozen=True)
class Case:
    """One case folder, the backend object to run it on, and the dtype to run it in."""

    folder: Path
    backend: Any
    dtype: str = "fp32"

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def component(self) -> str:
        return self.record["component"]

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.get("settings", {})

    @property
    def root(self) -> Path:
        """The folder that holds cases/, checkpoints/ and media/."""
        return self.folder.parent.parent

    @property
    def checkpoints(self) -> list[Path]:
        """Paths of the checkpoints in the order given; empty for pure functions."""
        paths = self.record.get("checkpoint")
        return [self.root / p for p in ([paths] if isinstance(paths, str) else paths or [])]

    @cached_property
    def inputs(self) -> Outputs:
        from safetensors.numpy import load_file

        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def outputs(self) -> Outputs:
        from safetensors.numpy import load_file

        return load_file(self.folder / "outputs.safetensors")

    def array(self, name: str) -> Any:
        """Input `name` as a backend array in the case's dtype."""
        return self.backend.array(self.inputs[name], self.dtype)

    def numpy(self, x: Any) -> np.ndarray:
        return self.backend.numpy(x)


def component(name: str) -> Callable[[Runner], Runner]:
    """Register the function that runs the cases of component `name`."""

    def register(function: Runner) -> Runner:
        RUNNERS[name] = function
        return function

    return register


def tolerance(record: dict[str, Any], name: str) -> tuple[float, float]:
    """(rtol, atol) of output `name`: the longest matching `per_output` prefix, else the general."""
    limits = dict(record["tolerance"])
    special = limits.pop("per_output", {})
    keys = [key for key in special if name.startswith(key)]
    if keys:
        limits |= special[max(keys, key=len)]
    return float(limits.get("rtol", 0.0)), float(limits.get("atol", 0.0))
