"""Wall seconds of what a user waits for before anything is computed."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from paired.report import show

ROOT = Path(__file__).parent.parent
LAUNCH = str(ROOT / "launch.py")
# What it is, the arguments of python, the target in seconds (None: the library's own import).
COMMANDS: tuple[tuple[str, list[str], float | None], ...] = (
    ("python alone", ["-c", "pass"], None),
    ("import ltx2", ["-c", "import ltx2"], 1.0),
    ("launch.py --help", [LAUNCH, "--help"], 1.0),
    ("launch.py --cfg job", [LAUNCH, "--cfg", "job"], 1.0),
    ("import torch", ["-c", "import torch"], None),
    ("import mlx.core", ["-c", "import mlx.core"], None),
)


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the record to this file")
    options = parser.parse_args()
    rows = []
    for name, arguments, target in COMMANDS:
        seconds(arguments)  # reads the files from disk and writes the bytecode
        times = [seconds(arguments) for _ in range(options.repeats)]
        row = {"command": name, "median": statistics.median(times), "best": min(times)}
        rows.append(row | {"target": "-" if target is None else f"< {target}"})
    show("start-up, seconds", rows, options.json)


if __name__ == "__main__":
    main()
