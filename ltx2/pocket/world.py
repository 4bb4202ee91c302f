"""The pocket world: one or two coloured shapes that move over a background, and their sound.

A `Scene` says everything that captions name; `Take` adds what they leave open (where, how large
exactly), and renders frames of any size and length and the sound that follows them. Lengths are
in units of the frame's shorter side, times in shares of the clip.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

Rgb = tuple[float, float, float]

COLOURS: Mapping[str, Rgb] = {
    "red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.9, 0.1), "purple": (0.6, 0.1, 0.8), "orange": (1.0, 0.55, 0.05),
}  # fmt: skip
BACKGROUNDS: Mapping[str, Rgb] = {
    "black": (0.03, 0.03, 0.03), "white": (0.95, 0.95, 0.95), "gray": (0.5, 0.5, 0.5),
    "teal": (0.0, 0.45, 0.45), "brown": (0.38, 0.24, 0.12),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
# Radii in shorter sides; two objects have less room each.
SIZES = {"small": 0.18, "big": 0.28}
DIRECTIONS: Mapping[str, tuple[int, int]] = {
    "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1),
    "up left": (-1, -1), "up right": (1, -1), "down left": (-1, 1), "down right": (1, 1),
}  # fmt: skip
MOTIONS = (*DIRECTIONS, "circling", "bouncing", "growing", "still")
SPEEDS = ("slow", "fast")
FLAWS = ("blurry", "dim", "flickering")

# No pitch is a harmonic of another; all are periodic in the vocoder's hop of 10 ms.
PITCHES_HZ = {
    "red": 300, "orange": 400, "yellow": 500, "green": 700, "blue": 1100, "purple": 1300,
}  # fmt: skip
# Amplitudes of the harmonics, the first the strongest.
TIMBRES = {
    "circle": (1.0,), "square": (0.8, 0.0, 0.5), "triangle": (0.7, 0.4, 0.2, 0.1),
    "cross": (0.7, 0.6),
}  # fmt: skip
LOUDNESS = {"small": 0.18, "big": 0.42}
CLICK_HZ, CLICK_SECONDS, CLICK_LEVEL = 3000, 0.04, 0.5
PAN_FLOOR = 0.003
PAN_EDGES = (0.18, 0.82)
HOP_SECONDS = 0.01
# Share of the room a straight path covers; turns; ground contacts; largest by smallest radius.
COVERED = {"slow": 0.45, "fast": 0.95}
TURNS = {"slow": 1, "fast": 2}
CONTACTS = {"slow": 2, "fast": 4}
GROWTH = {"slow": 1.6, "fast": 2.4}
PAIR_SIZE = 0.85
MARGIN = 0.04
# Width of a blurry outline, in shorter sides; brightness of dim clips and of every other pair of
# flickering frames.
BLUR = 0.16
DIM, FLICKER = 0.4, 0.55
# The share of training clips that have a flaw.
FLAWED = 0.08
# One combination in eight is kept from training.
_HELD_OUT = 8


@dataclass(frozen=True)
class Thing:
    """One object; every field is a word of the captions. A still thing is slow."""

    shape: str
    colour: str
    size: str = "big"
    motion: str = "still"
    speed: str = "slow"


@dataclass(frozen=True)
class Scene:
    """What a clip shows; of two things the first is on the left. `sound` False: silence.

    `flaw`: one of FLAWS or "", what negative prompts are for.
    """

    background: str
    things: tuple[Thing, ...]
    sound: bool = True
    flaw: str = ""

    @property
    def held_out(self) -> bool:
        """Whether training never shows this combination of words (one in eight)."""
        words = [self.background]
        for thing in self.things:
            words += [thing.shape, thing.colour, thing.motion]
        return hashlib.sha256(" ".join(words).encode()).digest()[0] % _HELD_OUT == 0


def draw_scene(
    rng: np.random.Generator, pairs: float = 0.35, silent: float = 0.12, flawed: float = 0.0
) -> Scene:
    """A random scene; `pairs`, `silent` and `flawed`: shares of two things, silence, flaws."""
    count = 2 if rng.random() < pairs else 1
    things = tuple(_draw_thing(rng) for _ in range(count))
    while count == 2 and things[0].colour == things[1].colour:
        things = things[0], _draw_thing(rng)
    background = str(rng.choice(tuple(BACKGROUNDS)))
    flaw = str(rng.choice(FLAWS)) if rng.random() < flawed else ""
    return Scene(background, things, bool(rng.random() >= silent), flaw)


def _draw_thing(rng: np.random.Generator) -> Thing:
    pick = [str(rng.choice(words)) for words in (SHAPES, tuple(COLOURS), tuple(SIZES), MOTIONS)]
    speed = str(rng.choice(SPEEDS))
    shape, colour, size, motion = pick
    return Thing(shape, colour, size, motion, "slow" if motion == "still" else speed)


@dataclass(frozen=True)
class Track:
    """Centre and radius of one thing at every frame (F,), in shorter sides from the top left."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    contacts: tuple[float, ...] = ()  # times of ground contact, shares of the clip


@dataclass(frozen=True)
class Take:
    """A scene with its open choices made: four numbers in [0, 1) per thing."""

    scene: Scene
    chance: tuple[tuple[float, float, float, float], ...]

    @classmethod
    def draw(cls, scene: Scene, rng: np.random.Generator) -> Take:
        chance = rng.random((len(scene.things), 4)).tolist()
        return cls(scene, tuple((a, b, c, d) for a, b, c, d in chance))

    def tracks(self, frames: int, height: int, width: int) -> list[Track]:
        """One track per thing for a clip of `frames` frames of height x width pixels."""
        aspect = width / min(height, width), height / min(height, width)
        count, tracks = len(self.scene.things), []
        for index, (thing, chance) in enumerate(zip(self.scene.things, self.chance, strict=True)):
            part = aspect[0] / count
            box = (index * part, 0.0, (index + 1) * part, aspect[1])
            shrink = PAIR_SIZE if count == 2 else 1.0
            tracks.append(_track(thing, chance, box, shrink, frames))
        return tracks

    def frames(self, frames: int, height: int, width: int, part: slice = slice(None)) -> np.ndarray:
        """(F, H, W, 3) float32 in [0, 1], anti-aliased: those frames of the clip in `part`."""
        pixel, count = 1 / min(height, width), len(range(frames)[part])
        clip = np.empty((count, height, width, 3), np.float32)
        clip[:] = BACKGROUNDS[self.scene.background]
        rows = ((np.arange(height) + 0.5) * pixel).astype(np.float32)[None, :, None]
        columns = ((np.arange(width) + 0.5) * pixel).astype(np.float32)[None, None, :]
        for thing, track in zip(self.scene.things, self.tracks(frames, height, width), strict=True):
            x, y, radius = (
                a[part].astype(np.float32)[:, None, None] for a in (track.x, track.y, track.radius)
            )
            distance = signed_distance(thing.shape, (columns - x) / radius, (rows - y) / radius)
            ramp = BLUR if self.scene.flaw == "blurry" else pixel
            cover = np.clip(0.5 - distance * radius / np.float32(ramp), 0, 1)[..., None]
            clip += cover * (np.asarray(COLOURS[thing.colour], np.float32) - clip)
        if self.scene.flaw == "dim":
            clip *= np.float32(DIM)
        if self.scene.flaw == "flickering":
            dark = np.arange(frames)[part] // 2 % 2 == 1
            clip[dark] *= np.float32(FLICKER)
        return clip

    def sound(self, seconds: float, rate: int, aspect: float = 1.0) -> np.ndarray:
        """(2, N) float32 in [-1, 1]; `aspect` is width by height. Silence for a mute scene."""
        count = round(seconds * rate)
        out = np.zeros((2, count), np.float32)
        if not self.scene.sound or count == 0:
            return out
        size = (1000, round(1000 * aspect))
        share = np.linspace(0, 1, max(2, round(seconds / HOP_SECONDS)))
        wide = aspect if aspect > 1 else 1.0
        time = np.arange(count) / rate
        for thing, track in zip(self.scene.things, self.tracks(len(share), *size), strict=True):
            position = np.interp(time / seconds, share, track.x / wide)
            level = LOUDNESS[thing.size] * track.radius / _radius(thing, len(self.scene.things))
            tone = _tone(thing, time) * np.interp(time / seconds, share, level)
            tone += _clicks(track.contacts, seconds, time)
            gains = pan_gains(position)
            out += (gains * tone).astype(np.float32)
        return np.clip(out, -1, 1)


def pan_gains(position: np.ndarray) -> np.ndarray:
    """(2, N) gains of left and right for positions 0 (left edge) to 1.

    Squared-linear between PAN_EDGES, all to one side beyond: a gentler law is lost in the log
    spectrogram.
    """
    low, high = PAN_EDGES
    position = np.clip((position - low) / (high - low), 0, 1)
    return np.stack([(1 - position) ** 2, position**2]) + PAN_FLOOR


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape of radius 1 at the origin, y downwards; inside < 0."""
    if shape == "circle":
        return np.hypot(x, y) - 1
    x, down = np.abs(x), y
    y = np.abs(y)
    if shape == "square":
        return np.maximum(x, y) - 0.9
    if shape == "cross":
        arm, length = 0.36, 1.05
        return np.minimum(np.maximum(x - arm, y - length), np.maximum(x - length, y - arm))
    if shape == "triangle":
        # Equilateral, point up, centred on its bounding box.
        slope = math.sqrt(0.75), 0.5
        return np.maximum(down - 0.95, x * slope[0] - (down + 0.95) * slope[1])
    raise ValueError(f"shape '{shape}' is unknown; use one of {', '.join(SHAPES)}")


def reach_of(radius: float) -> float:
    """How close to the frame's edge or the other half the centre of a thing may come."""
    return radius * 1.05 + MARGIN


def _radius(thing: Thing, count: int) -> float:
    return SIZES[thing.size] * (PAIR_SIZE if count == 2 else 1.0)


def _track(
    thing: Thing,
    chance: tuple[float, float, float, float],
    box: tuple[float, float, float, float],
    shrink: float,
    frames: int,
) -> Track:
    u = np.linspace(0, 1, frames)
    radius = np.full(frames, SIZES[thing.size] * shrink * (0.94 + 0.12 * chance[2]))
    if thing.motion == "growing":
        growth = GROWTH[thing.speed]
        radius = radius * (1 + (growth - 1) * u) * 2 / (1 + growth)
    reach = reach_of(float(radius.max()))
    low = np.array([box[0] + reach, box[1] + reach])
    high = np.maximum(np.array([box[2] - reach, box[3] - reach]), low)
    room = high - low
    centre = low + room * np.array([0.2 + 0.6 * chance[0], 0.2 + 0.6 * chance[1]])
    path = np.repeat(centre[None], frames, 0)
    contacts: tuple[float, ...] = ()
    if thing.motion in DIRECTIONS:
        path = _straight(thing, centre, (low, room), chance[3], u)
    elif thing.motion == "circling":
        turn = 2 * np.pi * (TURNS[thing.speed] * u + chance[3])
        orbit = 0.5 * room.min() * (0.85 + 0.15 * chance[2])
        middle = np.clip(centre, low + orbit, high - orbit)
        path = middle + orbit * np.stack([np.cos(turn), np.sin(turn)], -1)
    elif thing.motion == "bouncing":
        count = CONTACTS[thing.speed]
        height = room[1] * (0.75 + 0.25 * chance[1])
        y = high[1] - height * np.abs(np.cos(np.pi * count * u))
        path = np.stack([np.full(frames, centre[0]), y], -1)
        contacts = tuple((k + 0.5) / count for k in range(count))
    return Track(path[:, 0], path[:, 1], radius, contacts)


def _straight(
    thing: Thing,
    centre: np.ndarray,
    span: tuple[np.ndarray, np.ndarray],
    chance: float,
    u: np.ndarray,
) -> np.ndarray:
    """A straight path; what it does not cover of the room is left before and behind by chance."""
    low, room = span
    way = np.array(DIRECTIONS[thing.motion], float)
    # A diagonal rises as much as it goes aside, so that its angle is clear in any frame.
    length = room if not way.all() else np.full(2, room.min())
    length = length * COVERED[thing.speed]
    start = low + (room - length) * chance
    u = u[:, None]
    forward = start + length * np.where(way > 0, u, 1 - u)
    return np.where(way != 0, forward, centre)


def _tone(thing: Thing, time: np.ndarray) -> np.ndarray:
    pitch = PITCHES_HZ[thing.colour]
    waves = [
        level * np.sin(2 * np.pi * pitch * (k + 1) * time)
        for k, level in enumerate(TIMBRES[thing.shape])
        if level
    ]
    return np.sum(waves, axis=0)


def _clicks(contacts: tuple[float, ...], seconds: float, time: np.ndarray) -> np.ndarray:
    """A short decaying tone at every contact, begun on the vocoder's grid of hops."""
    out = np.zeros_like(time)
    for contact in contacts:
        begin = round(contact * seconds / HOP_SECONDS) * HOP_SECONDS
        since = time - begin
        decay = np.where(since >= 0, np.exp(-np.maximum(since, 0) / (CLICK_SECONDS / 4)), 0)
        out += CLICK_LEVEL * decay * np.sin(2 * np.pi * CLICK_HZ * since)
    return out


def training_scene(rng: np.random.Generator) -> Scene:
    """A random scene that is not held out."""
    while True:
        scene = draw_scene(rng, flawed=FLAWED)
        if not scene.held_out:
            return scene


def held_out_scene(rng: np.random.Generator, things: int = 1) -> Scene:
    """A random held-out scene with sound, of `things` things."""
    while True:
        scene = replace(draw_scene(rng, pairs=float(things - 1)), sound=True)
        if scene.held_out:
            return scene
