"""Paired timing: both sides run alternately in one process; memory is measured in separate ones."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Times:
    """Seconds of every repeat of one side."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def record(self) -> dict[str, float]:
        return {
            "CPU s": round(statistics.median(self.cpu), 4),
            "wall s": round(statistics.median(self.wall), 4),
        }


def alternate(
    sides: Mapping[str, Callable[[], Any]], repeats: int, wait: Callable[[], None] | None = None
) -> dict[str, Times]:
    """Run every side once to warm up, then `repeats` rounds, the order turned in each round."""
    wait = wait or (lambda: None)
    times = {name: Times() for name in sides}
    for run in sides.values():
        run()
    names = list(sides)
    for _ in range(repeats):
        for name in names:
            gc.collect()
            wait()
            cpu, wall = time.process_time(), time.perf_counter()
            sides[name]()
            wait()
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
        names.reverse()
    return times


def ratio(ours: Times, theirs: Times, wall: bool = False) -> float:
    """Median over the rounds of our seconds by theirs: CPU seconds, or wall where a GPU works."""
    pairs = (ours.wall, theirs.wall) if wall else (ours.cpu, theirs.cpu)
    return statistics.median(a / b for a, b in zip(*pairs, strict=True))


def forget_peak() -> None:
    """Let `peak_rss` count from here (Linux), so that building the weights is left out."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> int:
    """Highest resident memory of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        # Not on Linux, where a child's value starts at its parent's.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def peak_of(script: str, arguments: Sequence[str]) -> int:
    """Peak memory in bytes that `script` reports as its last line when run alone."""
    command = [sys.executable, str(Path(script).resolve()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])
