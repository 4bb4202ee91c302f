"""Two runs beside each other: settings, environment, metrics, latents step by step, frames, sound.

Everything is read from what the runs left; what one of them lacks is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.experiment.cell import VOLATILE
from ltx2.experiment.reproduce import Difference, Run, differences, environment
from ltx2.media.audio import read_audio
from ltx2.media.images import read_image
from ltx2.media.reading import iterate_frames

STREAMS = ("video", "audio")
LATENTS, STEPS = "latents", ".steps.safetensors"
PEAK = 255.0


@dataclass(frozen=True)
class Distance:
    """Largest absolute difference, and root mean square of the difference by that of the first."""

    max: float
    relative: float

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Distance | None:
        """None for arrays of different shapes."""
        if first.shape != second.shape:
            return None
        a, b = (np.asarray(x, np.float64) for x in (first, second))
        size = math.sqrt(np.mean(np.square(a))) if a.size else 0.0
        error = math.sqrt(np.mean(np.square(a - b))) if a.size else 0.0
        largest = float(np.abs(a - b).max(initial=0))
        return cls(largest, error / size if size else (0.0 if error == 0 else math.inf))

    def record(self) -> dict[str, float]:
        return {"max": self.max, "relative": self.relative}


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs; parts that could not be compared are None or empty.

    `metrics` are (name, first, second); `steps` and `latents` have a row per stage, step and
    stream, `statistics` a row per step with the means and deviations of both. `frames` and
    `sound` are tables of figures, or hold `problem`.
    """

    config: list[Difference]
    environment: list[Difference]
    metrics: list[tuple[str, float | None, float | None]]
    steps: list[dict[str, Any]]
    statistics: list[dict[str, Any]]
    latents: list[dict[str, Any]]
    frames: dict[str, Any] | None
    sound: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "config": [vars(item) for item in self.config],
            "environment": [vars(item) for item in self.environment],
            "metrics": {
                name: {"first": a, "second": b, "delta": delta(a, b)} for name, a, b in self.metrics
            },
            "steps": self.steps,
            "statistics": self.statistics,
            "latents": self.latents,
            "frames": self.frames,
            "sound": self.sound,
        }


def delta(first: float | None, second: float | None) -> float | None:
    """second - first; None where one is unknown."""
    return None if first is None or second is None else second - first


def compare(first: Run, second: Run) -> Comparison:
    """Everything that differs between two runs."""
    steps = list(_step_rows(first, second))
    return Comparison(
        differences(_settings(first), _settings(second)),
        differences(environment(first.record), environment(second.record)),
        list(_metrics(first.record, second.record)),
        steps,
        [] if steps else list(_statistics(first.record, second.record)),
        list(_latents(first, second)),
        _frames(first, second),
        _sound(first, second),
    )


def _settings(run: Run) -> dict[str, Any]:
    given = run.settings or run.record.get("settings") or {}
    return {key: value for key, value in given.items() if key not in VOLATILE}


def _metrics(
    first: dict[str, Any], second: dict[str, Any]
) -> Iterator[tuple[str, float | None, float | None]]:
    a, b = (record.get("metrics") or {} for record in (first, second))
    for name in dict.fromkeys((*a, *b)):
        yield name, a.get(name), b.get(name)


# --- latents


def _step_rows(first: Run, second: Run) -> Iterator[dict[str, Any]]:
    """Distances after every step, of the stages whose steps both runs kept (save_steps=true)."""
    for name, a, b in _both(first, second, f"*{STEPS}"):
        for tensor in sorted(a.keys() & b.keys(), key=_step_of):
            stream, _, step = tensor.rpartition(".")
            row = {"stage": name.removesuffix(STEPS), "step": int(step), "stream": stream}
            yield row | _distance(a[tensor], b[tensor])


def _step_of(name: str) -> tuple[int, str]:
    stream, _, step = name.rpartition(".")
    return (int(step) if step.isdecimal() else 0), stream


def _latents(first: Run, second: Run) -> Iterator[dict[str, Any]]:
    for name, a, b in _both(first, second, "*.safetensors"):
        if not name.endswith(STEPS):
            for stream in (s for s in STREAMS if s in a and s in b):
                row = {"stage": name.removesuffix(".safetensors"), "stream": stream}
                yield row | _distance(a[stream], b[stream])


def _both(
    first: Run, second: Run, pattern: str
) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Name and tensors of the latent files that both runs have, in the order of their making."""
    from safetensors.numpy import load_file

    if first.folder is None or second.folder is None:
        return
    files = sorted((first.folder / LATENTS).glob(pattern), key=lambda f: f.stat().st_mtime_ns)
    for file in files:
        other = second.folder / LATENTS / file.name
        if other.exists():
            yield file.name, load_file(file), load_file(other)


def _distance(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    found = Distance.of(first, second)
    if found is None:
        return {"problem": f"shapes {list(first.shape)} and {list(second.shape)}"}
    return found.record()


def _statistics(first: dict[str, Any], second: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Mean and deviation after every step that both records have."""
    others = {(s["stage"], s["step"]): s for s in second.get("steps") or []}
    for step in first.get("steps") or []:
        other = others.get((step["stage"], step["step"]))
        if other is None:
            continue
        row = {"stage": step["stage"], "step": step["step"]}
        names = [f"{stream}_{what}" for stream in STREAMS for what in ("mean", "std")]
        yield row | {n: [step[n], other[n]] for n in names if n in step and n in other}


# --- media


def _frames(first: Run, second: Run) -> dict[str, Any] | None:
    """PSNR over all frames that both clips have, in dB; None without pictures in both."""
    if not (_has_pictures(first) and _has_pictures(second)):
        return None
    counts, total, values, largest, start = [0, 0], 0.0, 0, 0, None
    pairs: Iterable[tuple[Any, Any]] = zip_longest(_pictures(first), _pictures(second))
    for index, (a, b) in enumerate(pairs):
        counts = [n + (x is not None) for n, x in zip(counts, (a, b), strict=True)]
        if a is None or b is None:
            continue
        if a.shape != b.shape:
            sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (a, b))
            return {"problem": f"their sizes differ: {sizes}"}
        difference = np.abs(a.astype(np.int16) - b)
        total += float(np.square(difference, dtype=np.float64).sum())
        values, largest = values + difference.size, max(largest, int(difference.max()))
        if start is None and difference.any():
            start = index
    error = total / values if values else 0.0
    psnr = None if error == 0 else 10 * math.log10(PEAK**2 / error)
    return {"counts": counts, "identical": largest == 0 and counts[0] == counts[1],
            "psnr": psnr, "max": largest, "first_different": start}  # fmt: skip


def _has_pictures(run: Run) -> bool:
    return run.clip is not None and run.clip.suffix != ".wav"


def _pictures(run: Run) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a clip or of a folder of PNGs."""
    assert run.clip is not None
    if run.clip.is_dir():
        return (read_image(path) for path in sorted(run.clip.glob("*.png")))
    return iterate_frames(run.clip)


def _sound(first: Run, second: Run) -> dict[str, Any] | None:
    sounds = [_waveform(run) for run in (first, second)]
    if sounds[0] is None or sounds[1] is None:
        return None
    (a, rate), (b, other) = sounds[0], sounds[1]
    if rate != other or len(a) != len(b):
        return {"problem": f"{len(a)} channels at {rate} Hz and {len(b)} at {other} Hz"}
    samples = [a.shape[1], b.shape[1]]
    length = min(samples)
    found = Distance.of(a[:, :length], b[:, :length])
    assert found is not None
    return {"samples": samples, "rate": rate,
            "identical": found.max == 0 and samples[0] == samples[1]} | found.record()  # fmt: skip


def _waveform(run: Run) -> tuple[np.ndarray, int] | None:
    path: Path | None = run.clip
    if path is not None and path.is_dir():
        path = path / "audio.wav"
    return read_audio(path) if path is not None and path.exists() else None
