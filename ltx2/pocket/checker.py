"""Reads a scene of the pocket world back from pixels and samples alone, and compares it with words.

`read_clip` says what a clip shows, in the words of the captions; `compare` says which of the words
of a scene, or of a prompt (`reading.scene_words`), come true in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import permutations

import numpy as np

from ltx2.errors import UserError
from ltx2.pocket.hearing import Voice, clicks, heard_position, is_silent, voices
from ltx2.pocket.naming import equal_area, is_blurry, name_colours, name_shape
from ltx2.pocket.paths import Path, read_path
from ltx2.pocket.reading import SaidScene, SaidThing, said
from ltx2.pocket.seeing import Blob, View, view
from ltx2.pocket.world import PAIR_SIZE, PITCHES_HZ, SIZES, Scene, pan_gains

# A pitch is right within a semitone, a pan from this correlation on, or where the thing stays at
# its place this near to it; clicks are together with contacts within so many seconds.
SEMITONE = 2 ** (1 / 12)
PAN_CORRELATION, PAN_DISTANCE, SYNC_SECONDS = 0.9, 0.15, 0.08
# A pan that should change less (standard deviation) cannot be followed.
_LEAST_SWAY = 0.04


@dataclass(frozen=True)
class SeenThing:
    """One object of a clip; words as in `Thing`, None for what cannot be told.

    `motion` may be "other". `pitch_hz`: of its tone. `pan`: correlation of where its tone comes
    from and should come from, for a thing that moves aside; `pan_distance`: mean distance of both,
    of 1 from left to right. `sync_seconds`: mean distance of the ground contacts of a bouncing
    thing from clicks, at most half of their own.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    motion: str | None = None
    speed: str | None = None
    pitch_hz: float | None = None
    pan: float | None = None
    pan_distance: float | None = None
    sync_seconds: float | None = None


@dataclass(frozen=True)
class Reading:
    """What a clip shows, things from left to right; None: no pictures, or no sound, to tell from.

    `flaw`: one of FLAWS or "".
    """

    things: tuple[SeenThing, ...]
    background: str | None = None
    silent: bool | None = None
    flaw: str | None = None


def read_clip(
    frames: np.ndarray | None,
    sound: np.ndarray | None = None,
    rate: int = 0,
    seconds: float | None = None,
) -> Reading:
    """Read frames (F, H, W, 3), uint8 or in [0, 1], and sound (2, N) in [-1, 1] of `rate` Hz.

    Either may be missing. `seconds`: what the clip lasts if that is not the length of its sound.
    Sizes from 64 pixels, lengths from 17 frames, aspects from 2:3 to 3:2 are what it is made for.
    """
    if sound is not None and (sound.ndim != 2 or sound.shape[0] != 2 or rate <= 0):
        raise UserError(f"sound of shape {sound.shape} at {rate} Hz; give (2, N) and its rate")
    silent = None if sound is None else is_silent(sound)
    seen = None if frames is None else view(frames)
    if seen is None:
        heard = () if sound is None else voices(sound, rate, 1)
        return Reading(tuple(SeenThing(pitch_hz=voice.hertz) for voice in heard), silent=silent)
    colours = name_colours(seen)
    things, paths, blurry = [], [], False
    for blob, colour, share in zip(seen.blobs, colours.things, colours.shares, strict=True):
        shape = name_shape(blob)
        # What shows but a share of its colour covers but that share of its area.
        radius = blob.radius * share**0.5 / equal_area(shape)[0]
        thing, path = _seen_thing(blob, shape, radius, seen)
        things.append(replace(thing, colour=colour))
        paths.append(path)
        blurry |= is_blurry(blob, shape, float(np.median(radius[blob.visible])))
    if sound is not None and not silent:
        lasts = seconds or sound.shape[1] / rate
        things = _with_sound(things, paths, seen, (sound, rate), lasts)
    flaw = "flickering" if seen.flicker else "dim" if colours.dim else "blurry" if blurry else ""
    return Reading(tuple(things), colours.background, silent, flaw)


def _seen_thing(
    blob: Blob, shape: str, radius: np.ndarray, seen: View
) -> tuple[SeenThing, Path | None]:
    """Shape, size and motion of a thing of so large a `radius` (F,)."""
    box = blob.part[1] - blob.part[0], seen.height
    centre = blob.x + 1j * (blob.y - equal_area(shape)[1] * radius)
    path = read_path(centre, radius, blob.visible, box)
    shrink = PAIR_SIZE if len(seen.blobs) == 2 else 1.0
    middle = shrink * (SIZES["small"] * SIZES["big"]) ** 0.5
    # A thing that grows has the size of its caption in the middle of the clip.
    size = "small" if radius[blob.visible].mean() < middle else "big"
    motion, speed = (None, None) if path is None else (path.motion, path.speed)
    return SeenThing(shape=shape, size=size, motion=motion, speed=speed), path


def _with_sound(
    things: list[SeenThing],
    paths: list[Path | None],
    seen: View,
    heard: tuple[np.ndarray, int],
    seconds: float,
) -> list[SeenThing]:
    """The things with what is heard of each; two that share a tone share it."""
    sound, rate = heard
    found = voices(sound, rate, len(things)) if things else ()
    ticks = clicks(sound, rate) if any(path and path.contacts for path in paths) else ()
    made = []
    for index, (thing, path, blob) in enumerate(zip(things, paths, seen.blobs, strict=True)):
        if found:
            voice = found[min(index, len(found) - 1)]
            pan, distance = _pan(voice, blob, seen.width, sound.shape[1] / rate / seconds)
            thing = replace(thing, pitch_hz=voice.hertz, pan=pan, pan_distance=distance)
        if path and path.contacts:
            contacts = [share * seconds for share in path.contacts]
            thing = replace(thing, sync_seconds=_sync(contacts, ticks))
        made.append(thing)
    return made


def _pan(voice: Voice, blob: Blob, width: float, part: float) -> tuple[float | None, float | None]:
    """Correlation and mean distance of where a thing is seen and heard; the sound lasts `part`."""
    shares = np.linspace(0, 1, len(blob.x))[blob.visible]
    place = np.interp(voice.shares * part, shares, blob.x[blob.visible] / width)
    place = heard_position(pan_gains(place))
    distance = float(np.abs(place - voice.position).mean())
    if place.std() < _LEAST_SWAY:
        return None, distance
    if voice.position.std() < 1e-6:
        return 0.0, distance
    return float(np.corrcoef(place, voice.position)[0, 1]), distance


def _sync(contacts: Sequence[float], ticks: Iterable[float]) -> float:
    """Mean distance in seconds of each contact from the nearest click."""
    most = (contacts[1] - contacts[0]) / 2
    away = [min((abs(tick - contact) for tick in ticks), default=most) for contact in contacts]
    return float(np.minimum(away, most).mean())


@dataclass(frozen=True)
class ThingAgreement:
    """Which words about one thing come true; None: not said, or cannot be told."""

    colour: bool | None = None
    shape: bool | None = None
    size: bool | None = None
    motion: bool | None = None
    speed: bool | None = None
    pitch: bool | None = None
    pan: bool | None = None
    sync: bool | None = None


@dataclass(frozen=True)
class Agreement:
    """Which words of a scene come true in a clip; None: not said, or cannot be told.

    `count`: how many things there are. `things` are those of the scene. What is meant without
    words: pitch follows the colour, pan the place, clicks the contacts, unless it is to be silent.
    """

    background: bool | None
    count: bool | None
    sound: bool | None
    flaw: bool | None
    things: tuple[ThingAgreement, ...]

    def attributes(self) -> dict[str, bool | None]:
        """Every attribute by its name; with two things, whether it is right for both."""
        own = {name: getattr(self, name) for name in ("background", "count", "sound", "flaw")}
        names = [field.name for field in fields(ThingAgreement)]
        return own | {name: _both(getattr(thing, name) for thing in self.things) for name in names}

    @property
    def picture(self) -> bool:
        """Whether everything to be seen is as said."""
        return self._all_but(SOUND_ATTRIBUTES)

    @property
    def audio(self) -> bool:
        """Whether everything to be heard is as said."""
        found = self.attributes()
        return not any(found[name] is False for name in SOUND_ATTRIBUTES)

    @property
    def everything(self) -> bool:
        """Whether all is as said."""
        return self._all_but(())

    def _all_but(self, names: tuple[str, ...]) -> bool:
        found = self.attributes()
        return not any(right is False for name, right in found.items() if name not in names)


SOUND_ATTRIBUTES = ("sound", "pitch", "pan", "sync")


def compare(reading: Reading, scene: Scene | SaidScene) -> Agreement:
    """Which words of `scene` come true in what was read."""
    words = said(scene)
    has_pictures = reading.background is not None
    hushed = words.sound is False or reading.silent is None
    pairs = _paired(reading.things, words.things)
    things = [_thing_agreement(thing, seen, has_pictures, hushed) for thing, seen in pairs]
    count = len(reading.things) == len(words.things) if words.things and has_pictures else None
    sound = None
    if words.sound is not None and reading.silent is not None:
        sound = words.sound != reading.silent
    return Agreement(
        background=_same(words.background, reading.background),
        count=count,
        sound=sound,
        flaw=_same(words.flaw, reading.flaw),
        things=tuple(things),
    )


def _paired(
    seen: tuple[SeenThing, ...], things: tuple[SaidThing, ...]
) -> list[tuple[SaidThing, SeenThing | None]]:
    """Things said with things seen: in order, or if there are not as many, the most like ones."""
    if len(seen) == len(things):
        return list(zip(things, seen, strict=True))
    padded = [*seen, *[None] * (len(things) - len(seen))]
    orders = [list(zip(things, order, strict=True)) for order in permutations(padded, len(things))]
    return max(orders, key=lambda order: sum(_likeness(*pair) for pair in order))


def _likeness(thing: SaidThing, seen: SeenThing | None) -> int:
    """How many words of one thing are those of another."""
    names = ("colour", "shape", "size", "motion")
    return 0 if seen is None else sum(getattr(thing, n) == getattr(seen, n) for n in names)


def _thing_agreement(
    thing: SaidThing, seen: SeenThing | None, has_pictures: bool, hushed: bool
) -> ThingAgreement:
    names = ("colour", "shape", "size", "motion", "speed")
    if seen is None:
        missing = {name: False for name in names if has_pictures and getattr(thing, name)}
        return ThingAgreement(**missing, pitch=None if hushed or not thing.colour else False)
    parts = {name: _same(getattr(thing, name), getattr(seen, name)) for name in names}
    if parts["motion"] is False and thing.speed is not None:
        parts["speed"] = False
    if hushed:
        return ThingAgreement(**parts)
    pitch = None if thing.colour is None else _is_pitch(seen.pitch_hz, PITCHES_HZ[thing.colour])
    pan = None
    if seen.pan is not None:
        pan = seen.pan >= PAN_CORRELATION
    elif seen.pan_distance is not None:
        pan = seen.pan_distance <= PAN_DISTANCE
    sync = None
    if thing.motion == "bouncing" and seen.motion == "bouncing":
        sync = seen.sync_seconds is not None and seen.sync_seconds <= SYNC_SECONDS
    return ThingAgreement(**parts, pitch=pitch, pan=pan, sync=sync)


def _same(wanted: str | None, found: str | None) -> bool | None:
    return None if wanted is None or found is None else wanted == found


def _is_pitch(hertz: float | None, wanted: float) -> bool:
    return hertz is not None and wanted / SEMITONE < hertz < wanted * SEMITONE


def _both(values: Iterable[bool | None]) -> bool | None:
    """False if one is, None if none is known."""
    known = [value for value in values if value is not None]
    return all(known) if known else None
