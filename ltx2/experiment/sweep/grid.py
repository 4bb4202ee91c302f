"""The cells of a sweep from what was typed: every combination, zipped axes, tables of values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ltx2.errors import UserError, nearest


@dataclass(frozen=True)
class Axis:
    """A key with its override strings, and each value as a reader wants to see it."""

    key: str
    overrides: tuple[str, ...]
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """One cell before it is composed: its overrides, and the values that set it apart."""

    overrides: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)


# What one position of the command line contributes: one choice for a fixed override.
_Slot = list[Choice]


def choices(
    typed: Sequence[str | Axis],
    zipped: Sequence[Sequence[str]] = (),
    tables: Sequence[Choice] = (),
) -> list[Choice]:
    """All cells, the first axis varying slowest.

    `typed` has fixed overrides and axes in the order of the command line. The keys of one entry
    of `zipped` advance together. `tables` are cells of their own, whose overrides replace fixed
    ones of the same key. Raises UserError for lengths that disagree and keys given twice.
    """
    axes = {item.key: item for item in typed if isinstance(item, Axis)}
    groups = _zip_groups(zipped, axes)
    slots: list[_Slot] = []
    seen: set[str] = set()
    for item in typed:
        if isinstance(item, str):
            slots.append([Choice((item,))])
        elif item.key not in seen:
            group = groups.get(item.key, [item])
            seen |= {axis.key for axis in group}
            slots.append(_together(group))
    if tables:
        _check_tables(tables, axes)
        slots.append(list(tables))
    return [_joined(parts) for parts in itertools.product(*slots)]


def _zip_groups(zipped: Sequence[Sequence[str]], axes: Mapping[str, Axis]) -> dict[str, list[Axis]]:
    """The axes that advance together, by each of their keys."""
    groups: dict[str, list[Axis]] = {}
    for keys in zipped:
        for key in keys:
            if key not in axes:
                hint = nearest(key, list(axes))
                raise UserError(
                    f"sweep.zip names {key}, which has no list of values{hint};"
                    f" give some, as {key}=A,B"
                )
            if key in groups:
                raise UserError(f"sweep.zip names {key} twice; keep one")
            groups[key] = []
        group = [axes[key] for key in keys]
        lengths = ", ".join(f"{axis.key} has {len(axis.overrides)}" for axis in group)
        if len({len(axis.overrides) for axis in group}) > 1:
            raise UserError(f"sweep.zip: {lengths} values; give every key as many")
        groups |= dict.fromkeys(keys, group)
    return groups


def _together(axes: Sequence[Axis]) -> _Slot:
    count = len(axes[0].overrides)
    return [
        Choice(
            tuple(axis.overrides[i] for axis in axes), {axis.key: axis.shown[i] for axis in axes}
        )
        for i in range(count)
    ]


def _check_tables(tables: Sequence[Choice], axes: Mapping[str, Axis]) -> None:
    for number, table in enumerate(tables, 1):
        for key in table.values:
            if key in axes:
                raise UserError(
                    f"sweep.cells: entry {number} sets {key}, which is swept as well; keep one"
                )


def _joined(parts: Sequence[Choice]) -> Choice:
    values: dict[str, str] = {}
    for part in parts:
        values |= part.values
    overrides: dict[str, str] = {}
    for text in (text for part in parts for text in part.overrides):
        key = text.partition("=")[0].lstrip("+")
        overrides.pop(key, None)  # a table's value takes its own place in the order
        overrides[key] = text
    return Choice(tuple(overrides.values()), values)
