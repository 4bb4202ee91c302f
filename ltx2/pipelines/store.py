"""Where results of stages may be kept between runs, as the runner sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np


class Entry(Protocol):
    """A kept result that has been checked. It stays readable while it is held."""

    @property
    def about(self) -> dict[str, Any]:
        """What was noted with the arrays: draws, step records, dtypes."""
        ...

    def array(self, name: str) -> np.ndarray | None:
        """The array of that name; None if there is none."""
        ...


class Stream(Protocol):
    """An array that is written piece by piece along its first axis."""

    def write(self, part: np.ndarray) -> None: ...

    def drop(self) -> None:
        """Keep nothing of it after all."""
        ...


class Journal(Protocol):
    """Estimates of a stage that is running, so that it can go on after an interruption."""

    def replay(self, index: int) -> dict[str, np.ndarray] | None:
        """The arrays of call `index` of an earlier, interrupted run of the stage."""
        ...

    def add(self, index: int, arrays: dict[str, np.ndarray]) -> None: ...

    def flush(self) -> None:
        """Write what has been added so far."""
        ...

    def remove(self) -> None:
        """The stage is done, or what was added is worth nothing."""
        ...


class Store(Protocol):
    """Keeps results by key. Nothing it does may fail a run."""

    def find(self, key: str) -> Entry | None:
        """The entry of `key`; None if there is none, or a damaged one."""
        ...

    def put(
        self, key: str, kind: str, arrays: dict[str, np.ndarray], about: dict[str, Any]
    ) -> None: ...

    def stream(
        self, key: str, kind: str, shape: tuple[int, ...], dtype: str, about: dict[str, Any]
    ) -> Any:
        """A context that gives a `Stream` for the array `data`; kept when it ends well."""
        ...

    def claim(self, key: str) -> Any:
        """A context: inside, no other process computes `key`; gives the entry if one just did."""
        ...

    def journal(self, key: str) -> Journal | None: ...


class NoStore:
    """Keeps nothing."""

    def find(self, key: str) -> Entry | None:
        return None

    def put(
        self, key: str, kind: str, arrays: dict[str, np.ndarray], about: dict[str, Any]
    ) -> None:
        pass

    @contextmanager
    def stream(
        self, key: str, kind: str, shape: tuple[int, ...], dtype: str, about: dict[str, Any]
    ) -> Iterator[None]:
        yield None

    def claim(self, key: str) -> Any:
        return nullcontext(None)

    def journal(self, key: str) -> Journal | None:
        return None
