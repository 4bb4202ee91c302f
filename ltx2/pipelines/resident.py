"""Loaded models kept between the runs of one process, for sweeps and prompt files."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.nn.lora import Fused
from ltx2.nn.module import slots
from ltx2.weights.header import Header

MODES = ("auto", "true", "false")
TRANSFORMER = "transformer"


@dataclass
class Resident:
    """At most one loaded model per role; another file, dtype or device lets go of it.

    mode auto keeps a model while at least as much memory is free as it takes, true always.
    """

    mode: str = "auto"
    parts: dict[str, tuple[tuple[Any, ...], Any]] = field(default_factory=dict)

    def find(self, role: str, key: tuple[Any, ...]) -> Any | None:
        """The model kept for `role` under `key`; any other one is let go of before the load."""
        known, part = self.parts.get(role, (None, None))
        if known == key:
            return part
        self.parts.pop(role, None)
        return None

    def keep(self, role: str, key: tuple[Any, ...], part: Any, backend: Any) -> bool:
        """Keep `part`, unless LoRAs were fused into it: they cannot be taken out again.

        Tells whether it is kept.
        """
        if any(isinstance(slot.value, Fused) for slot in slots(part)):
            return False
        fits = self.mode == "true" or module_bytes(part) <= backend.free_bytes()
        if fits:
            self.parts[role] = key, part
        return fits

    @property
    def freeable_bytes(self) -> int:
        """What is let go of when something larger comes."""
        held = sum(module_bytes(part) for _, part in self.parts.values())
        return 0 if self.mode == "true" else held

    def make_room(self, needed: float, backend: Any) -> None:
        """Let go of everything before `needed` bytes are loaded that would not fit beside it."""
        if self.parts and self.mode != "true" and backend.free_bytes() < needed:
            self.parts.clear()
            gc.collect()
            backend.free()


def resident_mode(value: Any) -> str:
    """keep_loaded as auto, true or false. Raises UserError for anything else."""
    mode = str(value).lower()
    if mode not in MODES:
        hint = nearest(mode, MODES)
        raise UserError(f"keep_loaded={value} is unknown{hint}; use {', '.join(MODES)}")
    return mode


def part_key(header: Header, backend: Any, dtype: str, *more: Any) -> tuple[Any, ...]:
    """What a loaded model depends on."""
    changed = header.path.stat().st_mtime_ns
    told = backend.describe()
    place = told["backend"], told["device"]
    return (str(header.path), header.file_size, changed, place, dtype, *more)


def module_bytes(part: Any) -> int:
    """Bytes of all arrays of a module."""
    return sum(int(getattr(slot.value, "nbytes", 0)) for slot in slots(part))
