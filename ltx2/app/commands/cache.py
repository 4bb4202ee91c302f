"""`ltx2 cache`: what the stage cache holds, making room in it, checking it."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from ltx2.errors import UserError

GB = 1e9


def main(arguments: list[str]) -> int:
    """List, prune or verify a cache folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ltx2 cache", description=__doc__)
    parser.add_argument("action", choices=("ls", "prune", "verify"))
    parser.add_argument("--folder", default="outputs/cache", help="default: outputs/cache")
    parser.add_argument("--max-gb", type=float, help="prune: size to get below; 0 deletes all")
    parser.add_argument("--long", action="store_true", help="ls: a line per result")
    given = parser.parse_args(arguments)
    folder = Path(given.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the cache with --folder")
    if given.action != "prune" and given.max_gb is not None:
        raise UserError(f"--max-gb has no effect on {given.action}; drop it")
    if given.action != "ls" and given.long:
        raise UserError(f"--long has no effect on {given.action}; drop it")
    return {"ls": _list, "prune": _prune, "verify": _verify}[given.action](folder, given)


def _list(folder: Path, given: argparse.Namespace) -> int:
    from ltx2.experiment.cache.store import DiskStore, kind_of

    listed = sorted(DiskStore(folder, 0).entries(), key=lambda item: -item.used)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in listed:
        kind, about = kind_of(item.path)
        counts[kind] += 1
        sizes[kind] += item.bytes
        if given.long:
            told = " ".join(str(about.get(key, "")) for key in ("model", "pipeline", "stage"))
            size, age = f"{item.bytes / 1e6:9.2f} MB", f"{_age(item.used):>8}"
            _print(f"{item.key[:12]} {size} {age}  {kind:9} {told}")
    for kind in sorted(counts):
        _print(f"{kind:10} {counts[kind]:6} results {sizes[kind] / GB:10.3f} GB")
    _print(f"{'total':10} {len(listed):6} results {sum(sizes.values()) / GB:10.3f} GB in {folder}")
    return 0


def _prune(folder: Path, given: argparse.Namespace) -> int:
    from ltx2.experiment.cache.store import DiskStore

    if given.max_gb is None:
        raise UserError("prune needs a size: --max-gb 10 keeps the newest 10 GB, 0 deletes all")
    if not given.max_gb >= 0:
        raise UserError(f"--max-gb {given.max_gb:g} must be 0 or more")
    count, freed = DiskStore(folder, given.max_gb * GB).prune()
    _print(f"deleted {count} results, {freed / GB:.3f} GB")
    return 0


def _verify(folder: Path, _given: argparse.Namespace) -> int:
    from ltx2.experiment.cache.store import DiskStore

    count, damaged = DiskStore(folder, float("inf")).verify()
    for path in damaged:
        _print(f"damaged, deleted: {path}")
    _print(f"{count} results, {len(damaged)} damaged")
    return 1 if damaged else 0


def _age(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
