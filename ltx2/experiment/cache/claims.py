"""Claims: of several workers that need the same result, one computes it and the others wait.

A claim is a file whose time is renewed while its owner lives, so that it works between machines
that share a disk; one that is no longer renewed is taken over.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltx2.experiment.cache.entry import DiskEntry
    from ltx2.experiment.cache.store import DiskStore

log = logging.getLogger(__name__)

RENEW_SECONDS, STALE_SECONDS, POLL_SECONDS = 5.0, 30.0, 0.1


class Claim:
    """Entered: waits while another worker computes the result, then gives the entry or None.

    Without a writable folder every worker computes for itself.
    """

    def __init__(self, store: DiskStore, path: Path, key: str) -> None:
        self._store, self._path, self._key = store, path, key
        self._owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self._done = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> DiskEntry | None:
        told = False
        while self._store.writable:
            try:
                self._take()
            except FileExistsError:
                if not told:
                    log.info("another worker computes this result; waiting for it")
                    told = True
                self._clear_if_stale()
                time.sleep(POLL_SECONDS)
                continue
            except OSError as error:
                self._store.stop_writing(error)
                return None
            # It may have been finished between the look into the cache and the claim.
            entry = self._store.find(self._key)
            if entry is None:
                self._renewing = threading.Thread(target=self._renew, daemon=True)
                self._renewing.start()
            else:
                self._release()
            return entry
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._renewing is not None:
            self._done.set()
            self._renewing.join()
            self._release()

    def _take(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("x") as file:
            file.write(self._owner)

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            # Not if it was taken over meanwhile.
            if self._path.read_text() == self._owner:
                self._path.unlink()

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _clear_if_stale(self) -> None:
        with contextlib.suppress(OSError):
            text = self._path.read_text()
            if self._is_dead(text) or self._age() > STALE_SECONDS:
                # Renamed first: of several that notice, one succeeds.
                aside = self._path.with_name(f".{uuid.uuid4().hex}")
                self._path.rename(aside)
                aside.unlink()

    def _age(self) -> float:
        """Seconds since the last renewal by the clock of the disk, which all workers share."""
        probe = self._path.with_name(f".{uuid.uuid4().hex}")
        probe.touch()
        try:
            return probe.stat().st_mtime - self._path.stat().st_mtime
        finally:
            probe.unlink()

    def _is_dead(self, owner: str) -> bool:
        """Whether the owner ran on this machine and does so no longer."""
        host, _, rest = owner.partition(" ")
        pid = rest.partition(" ")[0]
        if host != socket.gethostname() or not pid.isdigit() or os.name != "posix":
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False
