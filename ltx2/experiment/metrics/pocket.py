"""Whether a clip of the pocket model shows and sounds like what its prompt says."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import UNKNOWN, Clip, Measure, Results, mean
from ltx2.experiment.metrics.picture import Picture
from ltx2.pocket.checker import Agreement, Reading, compare, read_clip
from ltx2.pocket.reading import scene_words
from ltx2.pocket.seeing import shrunk

# Attributes of the whole clip and of each thing in it that a prompt can name.
_CLIP = ("background", "count", "sound", "flaw")
_THING = ("colour", "shape", "size", "motion", "speed", "pitch")


class PocketAdherence(Measure):
    """Share of the attributes named by the prompt that the clip has (`pocket_adherence`), and the
    share of things that are right in each (`pocket_colour` ...); NaN for what is not named.

    Beside these `pocket_pan`, the correlation of where the sound comes from and should come from,
    and `pocket_sync`, seconds from ground contacts to clicks, whatever the prompt says. Source:
    `ltx2.pocket.checker`, from pixels and samples alone.
    """

    names: ClassVar = (
        "pocket_adherence",
        *(f"pocket_{name}" for name in (*_CLIP, *_THING, "pan", "sync")),
    )

    def start(self, clip: Clip) -> None:
        if clip.model not in ("", "path") and not clip.model.startswith("pocket"):
            raise UserError(
                f"metrics=pocket_adherence reads the world of the pocket model, not model="
                f"{clip.model}; use model=pocket or metrics=clip"
            )
        self._clip = clip
        self._frames: list[np.ndarray] = []
        self._sound: tuple[np.ndarray, int] | None = None

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self._sound = waveform, rate

    def frame(self, picture: Picture) -> None:
        self._frames.append(shrunk(picture.rgb[None])[0])

    def result(self) -> Results:
        found: Results = dict.fromkeys(self.names, UNKNOWN)
        if not self._frames and self._sound is None:
            return found
        frames = np.stack(self._frames) if self._frames else None
        sound, rate = self._sound or (None, 0)
        reading = read_clip(frames, sound, rate, self._clip.seconds)
        return found | _shares(compare(reading, scene_words(self._clip.prompt))) | _heard(reading)


def _shares(agreement: Agreement) -> Results:
    whole = {name: [getattr(agreement, name)] for name in _CLIP}
    each = {name: [getattr(thing, name) for thing in agreement.things] for name in _THING}
    known = {
        name: [float(right) for right in values if right is not None]
        for name, values in (whole | each).items()
    }
    shares: Results = {f"pocket_{name}": mean(values) for name, values in known.items()}
    total = mean([right for values in known.values() for right in values])
    return shares | {"pocket_adherence": total}


def _heard(reading: Reading) -> Results:
    pans = [thing.pan for thing in reading.things if thing.pan is not None]
    syncs = [thing.sync_seconds for thing in reading.things if thing.sync_seconds is not None]
    return {"pocket_pan": mean(pans), "pocket_sync": mean(syncs)}
