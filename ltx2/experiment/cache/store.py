"""Stage results on disk, shared by runs, processes and machines that see the same folder.

Files appear whole by renaming, so readers need no lock. A file that does not match its checksum is
deleted and computed again. The least recently used files go when the folder passes its size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.experiment.cache.claims import Claim
from ltx2.experiment.cache.entry import Damaged, DiskEntry, EntryWriter, read_entry, read_head
from ltx2.experiment.cache.journal import DiskJournal

log = logging.getLogger(__name__)

SUFFIX, PART = ".safetensors", ".part"
# Pruning looks at every file; it is done after so much was written, as a share of the limit.
PRUNE_EVERY = 0.02
# What a killed process left half-written is old enough to be deleted.
ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Listed:
    """One file of the cache, for listing and pruning. `used` in seconds since the epoch."""

    path: Path
    key: str
    bytes: int
    used: float


class DiskStore:
    """A cache folder. `max_bytes` caps its size; `refresh` ignores what is there.

    Nothing here fails a run: what cannot be read is computed, what cannot be written is warned of
    once. `steps` keeps journals of running stages.
    """

    def __init__(
        self, folder: Path, max_bytes: float, refresh: bool = False, steps: bool = True
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._refresh, self._steps, self._writable = refresh, steps, True
        self._checked: dict[Path, tuple[int, int]] = {}
        self._written: set[str] = set()
        self._unpruned = float("inf")

    # --- reading

    def find(self, key: str) -> DiskEntry | None:
        """The intact entry of `key`, marked as used."""
        if self._refresh and key not in self._written:
            return None
        path = self._path(key)
        try:
            stat = path.stat()
            state = stat.st_size, stat.st_mtime_ns
            entry = read_entry(path, key, check=self._checked.get(path) != state)
            self._checked[path] = state
            # The time of access is that of the last use; the other stays that of the content.
            with contextlib.suppress(OSError):
                os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
        except FileNotFoundError:
            return None
        except Damaged as damage:
            log.warning("the cache is damaged (%s); it is computed again", damage)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except OSError as error:
            log.warning("the cache cannot be read: %s", error)
            return None
        return entry

    # --- writing

    def put(
        self, key: str, kind: str, arrays: dict[str, np.ndarray], about: dict[str, Any]
    ) -> None:
        """Keep `arrays`; a failure is warned of and switches writing off."""
        announced = {name: (value.shape, str(value.dtype)) for name, value in arrays.items()}
        with self._writing(key, kind, announced, about) as writer:
            for value in arrays.values():
                writer.write(value)

    def stream(
        self, key: str, kind: str, shape: tuple[int, ...], dtype: str, about: dict[str, Any]
    ) -> AbstractContextManager[Any]:
        """Keep one array `data` that comes in parts along its first axis."""
        return self._writing(key, kind, {"data": (shape, dtype)}, about)

    @contextmanager
    def _writing(
        self,
        key: str,
        kind: str,
        arrays: dict[str, tuple[tuple[int, ...], str]],
        about: dict[str, Any],
    ) -> Iterator[_Careful]:
        careful = _Careful(self, key, kind, arrays, about)
        try:
            yield careful
        except BaseException:
            careful.drop()
            raise
        careful.finish()

    def stop_writing(self, error: OSError) -> None:
        """Go on without keeping anything, and say so once."""
        if self._writable:
            log.warning(
                "the cache %s cannot be written (%s); this run's results are not kept;"
                " free space, choose another cache.folder or set cache=off",
                self.folder,
                error.strerror or error,
            )
        self._writable = False

    @property
    def writable(self) -> bool:
        return self._writable

    def written(self, key: str, size: int) -> None:
        """Note a new entry; prune when enough has come together."""
        self._written.add(key)
        self._unpruned += size
        if self._unpruned > PRUNE_EVERY * self.max_bytes:
            self._unpruned = 0.0
            self.prune()

    def claim(self, key: str) -> Claim:
        """While entered, other processes wait for `key` instead of computing it, too."""
        return Claim(self, self.folder / "claims" / key, key)

    def journal(self, key: str) -> DiskJournal | None:
        """Where the running stage of `key` notes its estimates."""
        if not self._steps or not self._writable:
            return None
        return DiskJournal(self.folder / "running" / key, self._refresh)

    # --- keeping house

    def entries(self) -> Iterator[Listed]:
        """All entries, in no order."""
        for path in self.folder.glob(f"[0-9a-f][0-9a-f]/*{SUFFIX}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield Listed(path, path.stem, stat.st_size, stat.st_atime)

    def prune(self, max_bytes: float | None = None) -> tuple[int, int]:
        """Delete the least recently used entries above `max_bytes`; (files, bytes) deleted."""
        limit = self.max_bytes if max_bytes is None else max_bytes
        self._remove_abandoned()
        listed = sorted(self.entries(), key=lambda item: item.used)
        total, count, freed = sum(item.bytes for item in listed), 0, 0
        for item in listed:
            if total - freed <= limit:
                break
            with contextlib.suppress(OSError):
                item.path.unlink()
                count, freed = count + 1, freed + item.bytes
        if count:
            log.info("the cache let go of %d results (%.2f GB)", count, freed / 1e9)
        return count, freed

    def verify(self) -> tuple[int, list[Path]]:
        """Check every entry; (number of entries, damaged files, which are deleted)."""
        damaged, count = [], 0
        for item in list(self.entries()):
            count += 1
            try:
                read_entry(item.path, item.key)
            except Damaged:
                damaged.append(item.path)
                with contextlib.suppress(OSError):
                    item.path.unlink()
        return count, damaged

    def _remove_abandoned(self) -> None:
        before = time.time() - ABANDONED_SECONDS
        for path in self.folder.glob(f"[0-9a-f][0-9a-f]/.*{PART}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def place(self, key: str) -> tuple[Path, Path]:
        """(temporary, final) path of an entry; makes the folder."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{key[:16]}.{uuid.uuid4().hex[:8]}{PART}"), path


class _Careful:
    """An entry being written; the first failure drops it and tells the store."""

    def __init__(self, store: DiskStore, key: str, *rest: Any) -> None:
        self._store, self._key = store, key
        self._writer: EntryWriter | None = None
        if store.writable:
            try:
                self._temporary, self._path = store.place(key)
                self._writer = EntryWriter(self._temporary, key, *rest)
                self._writer.__enter__()
            except OSError as error:
                self._failed(error)

    def write(self, part: np.ndarray) -> None:
        """The next part; nothing happens after a failure."""
        if self._writer is not None:
            try:
                self._writer.write(part)
            except OSError as error:
                self._failed(error)

    def finish(self) -> None:
        """Complete the file and give it its name."""
        if self._writer is None:
            return
        try:
            self._writer.__exit__(None, None, None)
            size = self._temporary.stat().st_size
            self._temporary.replace(self._path)
        except OSError as error:
            self._failed(error)
            return
        self._store.written(self._key, size)

    def drop(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                writer.__exit__(RuntimeError, RuntimeError(), None)
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def _failed(self, error: OSError) -> None:
        self.drop()
        self._store.stop_writing(error)


def kind_of(path: Path) -> tuple[str, dict[str, Any]]:
    """(kind, about) of an entry from its header; ("damaged", {}) when it cannot be read."""
    import json

    try:
        metadata, _, _ = read_head(path)
        return metadata["kind"], json.loads(metadata["about"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged", {}
