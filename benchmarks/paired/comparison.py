"""One row of a comparison: times of both sides in turns, memory of each side alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ltx2.backends.torch import TorchBackend
from paired.timing import alternate, forget_peak, peak_of, peak_rss, ratio

Sides = Mapping[str, Callable[[], Any]]
SIDES = ("ours", "diffusers")
# Relative root-mean-square differences that rounding explains.
SAME = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


def same_outputs(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], dtype: str) -> str:
    """The largest relative difference; fails where the two sides do not compute the same."""
    pairs = [(a.float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
    worst = max(float((a - b).square().mean() / b.square().mean()) ** 0.5 for a, b in pairs)
    assert worst < SAME[dtype], f"outputs differ by {worst:.1e} in {dtype}"
    return f"{worst:.1e}"


def timed(sides: Sides, repeats: int, backend: TorchBackend) -> dict[str, Any]:
    """Median CPU and wall seconds per side; the ratio is of CPU seconds, on a GPU of wall."""
    times = alternate(sides, repeats, backend.synchronize)
    row = {f"{name} {key}": v for name, t in times.items() for key, v in t.record().items()}
    if len(times) == 2:
        gpu = backend.kind != "cpu"
        row["ratio"] = round(ratio(times["ours"], times["diffusers"], wall=gpu), 3)
    return row


def memory(script: str, arguments: Sequence[str], reference: bool) -> dict[str, Any]:
    """Peak gigabytes of each side in a process of its own, started with `--peak SIDE`."""
    sides = SIDES if reference else SIDES[:1]
    peaks = {side: peak_of(script, [*arguments, "--peak", side]) for side in sides}
    row: dict[str, Any] = {f"{side} GB": round(peak / 1e9, 3) for side, peak in peaks.items()}
    if reference:
        row["memory ratio"] = round(peaks["ours"] / peaks["diffusers"], 3)
    return row


def report_peak(run: Callable[[], Any], backend: TorchBackend) -> None:
    """Run twice and print the peak: the device's, or on the CPU the whole process's."""
    backend.reset_peak()
    forget_peak()
    run()
    run()
    peak = backend.peak_bytes() if backend.kind == "cuda" else peak_rss()
    print(json.dumps({"peak_bytes": peak}))
