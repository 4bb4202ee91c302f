"""The estimates of a running stage on disk: after a crash the stage goes on where it was.

A sampler is deterministic given the estimates of its denoiser. Replaying them brings it, its own
noise and its memory of earlier steps back to the same place, whatever sampler it is.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import uuid
from pathlib import Path

import numpy as np

from ltx2.experiment.cache.entry import Damaged, EntryWriter, read_entry

log = logging.getLogger(__name__)

# A crash loses what was computed since the last writing, and at least the call that runs.
FLUSH_SECONDS = 2.0
KIND = "call"


class DiskJournal:
    """A folder with one file per denoiser call; `afresh` forgets what an earlier run left."""

    def __init__(self, folder: Path, afresh: bool = False) -> None:
        self._folder, self._broken = folder, False
        self._pending: dict[int, dict[str, np.ndarray]] = {}
        self._flushed = time.monotonic()
        if afresh:
            self.remove()

    def replay(self, index: int) -> dict[str, np.ndarray] | None:
        """Arrays of call `index`; None if there is none, or a damaged one."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            entry = read_entry(path, str(index))
            return {name: np.array(value) for name, value in entry.arrays.items()}
        except Damaged:
            return None

    def add(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        """Note a call; written with others, every few seconds."""
        self._pending[index] = arrays
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all noted calls; a failure ends the journal, not the run."""
        pending, self._pending = self._pending, {}
        try:
            for index, arrays in pending.items():
                if not self._broken:
                    self._write(index, arrays)
        except OSError as error:
            self._broken = True
            log.warning("this stage cannot be continued after a crash: %s", error)
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Delete everything."""
        self._pending.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(index)
        temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.part")
        shapes = {name: (value.shape, str(value.dtype)) for name, value in arrays.items()}
        try:
            with EntryWriter(temporary, str(index), KIND, shapes, {}) as writer:
                for value in arrays.values():
                    writer.write(value)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:05d}.safetensors"
