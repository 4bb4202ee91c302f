"""How often clips show and sound like their prompts, over prompts that training never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import Clip, Measure, Results
from ltx2.experiment.metrics.picture import Picture
from ltx2.pocket.captions import caption
from ltx2.pocket.checker import Agreement, Reading, compare, read_clip
from ltx2.pocket.world import PITCHES_HZ, Scene, held_out_scene

# Agreements over several attributes, beside the single ones.
WHOLES = ("picture", "audio", "everything")


@dataclass(frozen=True)
class Asked:
    """A scene and a caption that says all of it."""

    prompt: str
    scene: Scene


@dataclass(frozen=True)
class Judged:
    """What was asked for, what was seen and heard, and which words came true."""

    asked: Asked
    reading: Reading
    agreement: Agreement
    seconds: float

    def values(self) -> dict[str, bool | None]:
        """Every attribute, and the wholes."""
        wholes = {name: bool(getattr(self.agreement, name)) for name in WHOLES}
        return self.agreement.attributes() | wholes

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "prompt": self.asked.prompt,
            "reading": asdict(self.reading),
            "right": self.values(),
            "seconds": round(self.seconds, 3),
        }


def held_out_prompts(count: int, things: int, seed: int) -> list[Asked]:
    """`count` captions of held-out scenes with 1 or 2 things, in various words."""
    if things not in (1, 2):
        raise UserError(f"evaluate.things={things} is not 1 or 2")
    if count < 1:
        raise UserError(f"evaluate.count={count} must be at least 1")
    rng = np.random.default_rng(seed)
    scenes = [held_out_scene(rng, things) for _ in range(count)]
    return [Asked(caption(scene, rng), scene) for scene in scenes]


@dataclass
class Watching(Measure):
    """Takes a clip as it is decoded, before any codec, and judges it at the end."""

    asked: Asked
    judged: tuple[Reading, Agreement] | None = None
    _frames: list[np.ndarray] = field(default_factory=list)
    _sound: tuple[np.ndarray, int] | None = None
    _seconds: float = 0.0

    def start(self, clip: Clip) -> None:
        self._seconds = clip.seconds

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self._sound = np.asarray(waveform, np.float32), rate

    def frame(self, picture: Picture) -> None:
        self._frames.append(picture.rgb8)

    def result(self) -> Results:
        """Nothing for the record of the run: `judged` has it."""
        frames = np.stack(self._frames) if self._frames else None
        sound, rate = self._sound or (None, 0)
        reading = read_clip(frames, sound, rate, self._seconds)
        self.judged = reading, compare(reading, self.asked.scene)
        return {}


def summary(judged: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Percent right, number of clips it could be told of, and standard error, by attribute."""
    rows: dict[str, dict[str, float]] = {}
    for name in judged[0].values() if judged else ():
        known = [value for item in judged if (value := item.values()[name]) is not None]
        if not known:
            continue
        share = sum(known) / len(known)
        error = math.sqrt(share * (1 - share) / len(known))
        rows[name] = {"right": 100 * share, "of": len(known), "error": 100 * error}
    return rows


def figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Means of what is measured: pan correlation, cents off the pitch, seconds off the contacts."""
    pans, cents, syncs = [], [], []
    for item in judged:
        for seen, thing in zip(item.reading.things, item.asked.scene.things, strict=False):
            if seen.pan is not None:
                pans.append(seen.pan)
            if seen.pitch_hz:
                cents.append(abs(1200 * math.log2(seen.pitch_hz / PITCHES_HZ[thing.colour])))
            if seen.sync_seconds is not None and math.isfinite(seen.sync_seconds):
                syncs.append(seen.sync_seconds)
    found = {
        "pan_correlation": pans, "pitch_cents_median": cents, "sync_seconds": syncs,
        "seconds_per_clip": [item.seconds for item in judged],
    }  # fmt: skip
    return {
        name: float(np.median(values) if name.endswith("median") else np.mean(values))
        for name, values in found.items()
        if values
    }


def table_text(rows: dict[str, dict[str, float]], means: dict[str, float]) -> str:
    """The summary as lines."""
    lines = [f"{'attribute':14} {'right':>8} {'+-':>6} {'clips':>6}"]
    lines += [
        f"{name:14} {row['right']:7.1f}% {row['error']:6.1f} {row['of']:6.0f}"
        for name, row in rows.items()
    ]
    lines += [f"{name:20} {value:.4g}" for name, value in means.items()]
    return "\n".join(lines)
