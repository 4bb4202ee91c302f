"""Modules are dataclasses of arrays; this file says what a field's tensor is called and holds.

`Linear.declare(...)`, `Transformer.declare(config)` and so on build a module whose array fields
are `Param` placeholders: names and shapes follow from the checkpoint's metadata alone, nothing is
allocated. `ltx2.weights.build` checks the placeholders against a file and replaces them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["plain", "conv", "conv_transpose"]


@dataclass(frozen=True)
class Param:
    """Placeholder of one tensor: its shape in the file and how a backend lays it out.

    `kind` conv: (out, in / groups, *kernel); conv_transpose: (in, out, k). `default` rebuilds the
    value where files may lack it. `dtype` pins a dtype against the component's policy.
    """

    shape: tuple[int, ...]
    kind: Kind = "plain"
    default: Callable[[], np.ndarray] | None = None
    dtype: str | None = None


def named(name: str, **kwargs: Any) -> Any:
    """A dataclass field whose name in the file is not an identifier, such as `to_out.0`."""
    return field(metadata={"name": name}, **kwargs)


@dataclass(frozen=True)
class Slot:
    """One place in a module tree: `owner.key` (or `owner[key]` of a list) holds `value`."""

    name: str
    owner: Any
    key: str | int
    value: Any

    def replace(self, value: Any) -> None:
        if isinstance(self.owner, list):
            self.owner[int(self.key)] = value
        else:
            object.__setattr__(self.owner, str(self.key), value)


def slots(module: Any, prefix: str = "") -> Iterator[Slot]:
    """Every field below `module`, modules before their own fields, with its name in the file."""
    for key, name, value in _children(module):
        full = f"{prefix}{name}"
        yield Slot(full, module, key, value)
        if _is_module(value) or isinstance(value, list):
            yield from slots(value, f"{full}.")


def params(module: Any, prefix: str = "") -> list[Slot]:
    """The slots that still hold a `Param`."""
    return [slot for slot in slots(module, prefix) if isinstance(slot.value, Param)]


def parameter_count(module: Any) -> int:
    """Number of values in the declared tensors of `module`."""
    return sum(int(np.prod(slot.value.shape)) for slot in params(module))


def copied(module: Any) -> Any:
    """A copy of a module tree, or a list of them, whose leaves are the same objects."""
    if isinstance(module, list):
        return [copied(v) if _is_module(v) or isinstance(v, list) else v for v in module]
    made = copy.copy(module)
    for key, _, value in _children(module):
        if _is_module(value) or isinstance(value, list):
            object.__setattr__(made, str(key), copied(value))
    return made


def _is_module(value: Any) -> bool:
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type | Param)
        and not value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    )


def _children(module: Any) -> Iterator[tuple[str | int, str, Any]]:
    if isinstance(module, list):
        # By index: iterating over streamed blocks would read their weights.
        for index in range(len(module)):
            yield index, str(index), module[index]
        return
    for item in dataclasses.fields(module):
        yield item.name, item.metadata.get("name", item.name), getattr(module, item.name)
