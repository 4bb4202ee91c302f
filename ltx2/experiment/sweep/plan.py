"""The plan of a sweep: its cells with their folders, written before anything runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.experiment.record import to_json, write_text

PLAN = "plan.json"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    `index` is its position as typed, `cell` the hash of its settings, `overrides` repeat it as a
    single run. `settings`, `cost` (operations, roughly), `calls` of the transformer and `steps` by
    stage are not written down.
    """

    index: int
    cell: str
    folder: str
    overrides: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)
    settings: Any = field(default=None, compare=False, repr=False)
    cost: float = 0.0
    calls: int = 0
    steps: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def text(self) -> str:
        """What varies, for a line of a log or table."""
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "(as given)"

    def record(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "cell": self.cell,
            "folder": self.folder,
            "overrides": list(self.overrides),
            "values": self.values,
        }


@dataclass(frozen=True)
class SweepPlan:
    """A sweep; `directory` is where `command` was typed, since its paths may be relative."""

    sweep: str
    name: str
    created: str
    command: tuple[str, ...]
    directory: str
    overrides: tuple[str, ...]
    cells: tuple[Cell, ...] = ()
    base: dict[str, Any] = field(default_factory=dict)
    optimize: dict[str, Any] | None = None

    @property
    def axes(self) -> list[dict[str, Any]]:
        """Every key that varies, with its values in the order of the cells."""
        found: dict[str, dict[str, None]] = {}
        for cell in self.cells:
            for key, value in cell.values.items():
                found.setdefault(key, {})[value] = None
        return [{"key": key, "values": list(values)} for key, values in found.items()]

    def cell_in(self, folder: str) -> Cell | None:
        """The cell whose folder has this name."""
        return next((cell for cell in self.cells if cell.folder == folder), None)

    def record(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "name": self.name,
            "created": self.created,
            "command": list(self.command),
            "directory": self.directory,
            "overrides": list(self.overrides),
            "axes": self.axes,
            "base": self.base,
            "optimize": self.optimize,
            "cells": [cell.record() for cell in self.cells],
        }


def write_plan(folder: Path, plan: SweepPlan) -> None:
    """plan.json in `folder`."""
    write_text(folder / PLAN, to_json(plan.record(), indent=1) + "\n")


def read_plan(folder: Path) -> SweepPlan | None:
    """The plan in `folder`; None without one. Raises UserError for a file that is none."""
    path = folder / PLAN
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        cells = tuple(
            Cell(
                item["index"],
                item["cell"],
                item["folder"],
                tuple(item["overrides"]),
                item["values"],
            )
            for item in record["cells"]
        )
        return SweepPlan(
            sweep=record["sweep"],
            name=record["name"],
            created=record["created"],
            command=tuple(record["command"]),
            directory=record.get("directory", ""),
            overrides=tuple(record["overrides"]),
            cells=cells,
            base=record["base"],
            optimize=record["optimize"],
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is not the plan of a sweep ({type(error).__name__}: {error});"
            " move the folder away to begin anew"
        ) from None


def shared_base(settings: Sequence[Any]) -> dict[str, Any]:
    """Dotted keys and values that all of the composed settings have in common."""
    tables = [flat(dataclasses.asdict(item)) for item in settings]
    if not tables:
        return {}
    first, *others = tables
    absent = object()
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key, absent) == value for other in others)
    }


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists stay as they are."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
