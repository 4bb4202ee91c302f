"""Loading without reading: checks a file against the modules its metadata describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Absent:
    """Stands where a loaded module has an array."""

    def __mul__(self, other: object) -> Absent:
        return self


@dataclass
class DryBackend:
    """Takes a backend's place in loading; reads nothing, remembers which tensors would be read.

    `ltx2.weights.build.load` with it raises what loading would raise, at no cost.
    """

    used: set[str] = field(default_factory=set)
    kind: str = "cpu"

    def open(self, path: str) -> DryBackend:
        return self

    def get(self, name: str) -> Absent:
        self.used.add(name)
        return Absent()

    def array(self, host: np.ndarray, dtype: str = "fp32") -> Absent:
        return Absent()

    def place(self, x: Any, dtype: str, kind: str = "plain") -> Absent:
        return Absent()

    def place_codes(self, x: Any) -> Absent:
        return Absent()

    def decode_fp8(self, x: Any) -> Absent:
        return Absent()
