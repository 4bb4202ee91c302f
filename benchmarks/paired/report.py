"""Tables on the terminal and records in a JSON file."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def has_diffusers() -> bool:
    """Whether the reference is installed; says so if not."""
    found = importlib.util.find_spec("diffusers") is not None
    if not found:
        print("diffusers is not installed: only our own figures follow (pip install diffusers)")
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def show(title: str, rows: Sequence[dict[str, Any]], path: str | None) -> None:
    """Print `rows` as a table; with `path`, write them there with the machine's record."""
    print(f"\n{title}")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[_text(row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if path:
        record = {"title": title, "machine": machine(), "rows": list(rows)}
        Path(path).write_text(json.dumps(record, indent=2) + "\n")


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
