"""`ltx2 diff`: what differs between two runs, from their settings to their frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ltx2.experiment.compare import Comparison, compare, delta
from ltx2.experiment.record import to_json
from ltx2.experiment.reproduce import Difference, load_run

WIDEST = 60


def main(arguments: list[str]) -> int:
    """Run `ltx2 diff A B [--json]`; 0 whether or not they differ."""
    parser = argparse.ArgumentParser(prog="ltx2 diff", description=__doc__)
    parser.add_argument("first", help="a clip with its record inside, or the folder of a run")
    parser.add_argument("second", help="the same")
    parser.add_argument("--json", action="store_true", help="every figure, for programs")
    options = parser.parse_args(arguments)
    first, second = load_run(options.first), load_run(options.second)
    found = compare(first, second)
    text = to_json(found.record(), indent=1) if options.json else "\n".join(lines(found))
    sys.stdout.write(f"{text}\n")
    return 0


def lines(found: Comparison) -> Iterator[str]:
    """The comparison for a reader, part by part."""
    yield from _differences("config", found.config)
    yield from _differences("environment", found.environment)
    yield from _metrics(found.metrics)
    yield from _distances("latents after every step", found.steps)
    yield from _statistics(found.statistics)
    yield from _distances("latents of finished stages", found.latents)
    yield from _frames(found.frames)
    yield from _sound(found.sound)


def _differences(title: str, found: Sequence[Difference]) -> Iterator[str]:
    if not found:
        yield f"{title}: the same"
        return
    yield f"{title}: {len(found)} differ"
    yield from _table([[item.key, _short(item.first), _short(item.second)] for item in found])


def _metrics(found: Sequence[tuple[str, float | None, float | None]]) -> Iterator[str]:
    if not found:
        return
    yield "metrics:"
    rows = [["", "first", "second", "second - first"]]
    for name, a, b in found:
        rows.append([name, _number(a), _number(b), _number(delta(a, b), "+")])
    yield from _table(rows)


def _distances(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    if all(row.get("max") == 0 for row in rows):
        yield f"{title}: identical ({len(rows)} compared)"
        return
    yield f"{title}:"
    shown = [["stage", "step", "stream", "largest difference", "relative"]]
    for row in rows:
        place = [row["stage"], str(row.get("step", "")), row["stream"]]
        figures = [row["problem"], ""] if "problem" in row else []
        shown.append([*place, *(figures or [_number(row["max"]), _number(row["relative"])])])
    yield from _table(shown)


def _statistics(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The steps whose statistics differ."""
    if not rows:
        return
    told = [(row, {k: v for k, v in row.items() if isinstance(v, list)}) for row in rows]
    other = [(row, {k: v for k, v in pairs.items() if v[0] != v[1]}) for row, pairs in told]
    other = [(row, pairs) for row, pairs in other if pairs]
    if not other:
        yield f"statistics of the latents: the same in all {len(rows)} steps"
        return
    row = other[0][0]
    where = f"first in stage {row['stage']}, step {row['step']}"
    yield f"statistics of the latents: {len(other)} of {len(rows)} steps differ, {where}"
    shown = [["stage", "step", "value", "first", "second"]]
    shown += [
        [row["stage"], str(row["step"]), name, _number(a), _number(b)]
        for row, pairs in other
        for name, (a, b) in pairs.items()
    ]
    yield from _table(shown)
    yield "  (save_steps=true in both runs compares the latents themselves)"


def _frames(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    if "problem" in found:
        yield f"frames: not comparable, {found['problem']}"
        return
    counts = found["counts"]
    number = str(counts[0]) if counts[0] == counts[1] else f"{counts[0]} and {counts[1]}"
    if found["identical"]:
        yield f"frames: identical ({number})"
    elif found["psnr"] is None:
        yield f"frames: {number}, those of both are identical"
    else:
        yield (
            f"frames: {number}, PSNR {found['psnr']:.2f} dB, largest difference {found['max']} of"
            f" 255, from frame {found['first_different']} on"
        )


def _sound(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    if "problem" in found:
        yield f"sound: not comparable, {found['problem']}"
    elif found["identical"]:
        yield f"sound: identical ({found['samples'][0]} samples)"
    else:
        first, second = found["samples"]
        number = str(first) if first == second else f"{first} and {second}"
        yield (
            f"sound: {number} samples, largest difference {_number(found['max'])}, relative"
            f" {_number(found['relative'])}"
        )


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    cells = list(rows)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {line}".rstrip()


def _short(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else to_json(value)
    text = " ".join(str(text).split()) or "''"
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4g}"
