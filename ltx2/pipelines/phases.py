"""Time and peak memory of each phase of a run."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltx2.pipelines.progress import Progress

log = logging.getLogger(__name__)

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class PhaseRecord:
    """Wall seconds and peak memory in bytes of one finished phase."""

    phase: str
    seconds: float
    peak_rss_bytes: int
    peak_device_bytes: int | None

    def record(self) -> dict[str, Any]:
        """What run.json keeps."""
        return {
            "phase": self.phase,
            "seconds": round(self.seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "peak_device_bytes": self.peak_device_bytes,
        }


@dataclass
class Phases:
    """Runs phases one after another and keeps their records."""

    backend: Any
    records: list[PhaseRecord] = field(default_factory=list)
    _asides: dict[str, float] = field(default_factory=dict)

    def memory_bytes(self) -> int:
        """Peak memory of the running phase so far: the device's, or the process's on a CPU."""
        device = self.backend.peak_bytes()
        return peak_rss() if device is None else device

    @contextmanager
    def phase(self, name: str, units: int, progress: Progress) -> Iterator[None]:
        """Everything inside counts as `name`; pending device work is waited for at the end."""
        _reset_peak_rss()
        self.backend.reset_peak()
        self._asides.clear()
        start = time.monotonic()
        progress.begin(name, units)
        try:
            yield
            self.backend.synchronize()
        finally:
            progress.end()
        seconds = time.monotonic() - start - sum(self._asides.values())
        record = PhaseRecord(name, seconds, peak_rss(), self.backend.peak_bytes())
        self.records.append(record)
        for aside, spent in self._asides.items():
            self.records.append(replace(record, phase=aside, seconds=spent))
        log.info("%s: %.2f s, peak memory %.2f GB", name, seconds, record.peak_rss_bytes / 1e9)

    @contextmanager
    def aside(self, name: str, progress: Progress) -> Iterator[None]:
        """What happens inside a phase but is not its work: a record and seconds of its own."""
        start = time.monotonic()
        try:
            yield
            self.backend.synchronize()
        finally:
            seconds = time.monotonic() - start
            self._asides[name] = self._asides.get(name, 0.0) + seconds
            progress.aside(seconds)


def peak_rss() -> int:
    """Peak resident memory of this process in bytes since the last reset (Linux) or its start."""
    status = _STATUS.read_text() if _STATUS.exists() else ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak_rss() -> None:
    # 5 resets the high-water mark; containers may forbid it, then the peak is the process's.
    try:
        _CLEAR.write_text("5")
    except OSError:
        log.debug("the peak RSS cannot be reset here; phases report the peak so far")
