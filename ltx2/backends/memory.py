"""How much memory of the host a process can still take."""

from __future__ import annotations

import os
from pathlib import Path

# Limit, use, and what of the use is file cache that can be dropped: cgroup 2, then 1.
_GROUPS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
    ),
)
_CACHE = ("inactive_file", "total_inactive_file")


def host_free_bytes(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping.

    Linux: what the kernel calls available, within the container's limit. Elsewhere half of the
    physical memory. `root` is where `proc` and `sys` are.
    """
    figures = [_available(root), *(_within(root, *names) for names in _GROUPS)]
    known = [figure for figure in figures if figure is not None]
    if known:
        return max(0, min(known))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available(root: Path) -> int | None:
    value = _fields(root / "proc/meminfo").get("MemAvailable:")
    return None if value is None else value * 1024


def _within(root: Path, limit: str, used: str, statistics: str) -> int | None:
    """What a control group leaves; None without a limit ("max" is no number)."""
    try:
        most, now = int((root / limit).read_text()), int((root / used).read_text())
    except (OSError, ValueError):
        return None
    counts = _fields(root / statistics)
    return most - now + max((counts.get(name, 0) for name in _CACHE), default=0)


def _fields(path: Path) -> dict[str, int]:
    """First and second word of every line."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def release_host_memory() -> None:
    """Give what the C library keeps of freed memory back to the system, where it can (glibc)."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
