"""Captions of pocket scenes: a small grammar with synonyms and word orders.

`caption` says what it is told to; `random_caption` leaves things out, from one word up to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ltx2.pocket.world import BACKGROUNDS, COLOURS, FLAWS, Scene, Thing

Words = Mapping[str, Sequence[str]]

SHAPE_WORDS: Words = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus"),
}
SIZE_WORDS: Words = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
COLOUR_WORDS: Words = {name: (name,) for name in COLOURS} | {"purple": ("purple", "violet")}
BACKGROUND_WORDS: Words = {name: (name,) for name in BACKGROUNDS} | {"gray": ("gray", "grey")}
# What a thing does ("a ball ..."), then what it is doing ("..., moving left").
MOTION_WORDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "left": (("moves left", "goes to the left"), ("moving left", "going to the left")),
    "right": (("moves right", "goes to the right"), ("moving right", "going to the right")),
    "up": (("moves up", "rises"), ("moving up", "rising")),
    "down": (("moves down", "falls"), ("moving down", "falling")),
    "up left": (("moves up and left", "rises to the left"), ("moving up left",)),
    "up right": (("moves up and right", "rises to the right"), ("moving up right",)),
    "down left": (("moves down and left", "falls to the left"), ("moving down left",)),
    "down right": (("moves down and right", "falls to the right"), ("moving down right",)),
    "circling": (("circles", "goes around in a circle"), ("circling", "going around")),
    "bouncing": (("bounces", "jumps up and down"), ("bouncing", "jumping")),
    "growing": (("grows", "gets bigger"), ("growing", "getting bigger")),
    "still": (("stays still", "does not move"), ("standing still", "not moving")),
}
SPEED_WORDS: Words = {"slow": ("slowly",), "fast": ("quickly", "fast")}
SILENT_WORDS = ("in silence", "without sound", "silent")
LOUD_WORDS = ("with sound", "with a tone")
FLAW_WORDS: Words = {
    "blurry": ("blurry", "out of focus"), "dim": ("dim", "dark"),
    "flickering": ("flickering", "unsteady"),
}  # fmt: skip
BACKGROUND_FORMS = ("on a {} background", "over {}", "in front of a {} wall")


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Everything about the scene; the first words of each list, or random ones."""
    return _Writer(rng, keep=1.0).write(scene)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Between one word and everything, in a random order and choice of words."""
    kind = rng.random()
    if kind < 0.5:
        return _Writer(rng, keep=1.0).write(scene)
    if kind < 0.9:
        return _Writer(rng, keep=float(rng.uniform(0.4, 0.95))).write(scene)
    return _Writer(rng, keep=0.15).write(scene)


class _Writer:
    """Writes one caption, keeping each part with probability `keep`."""

    def __init__(self, rng: np.random.Generator | None, keep: float) -> None:
        self._rng, self._keep = rng, keep

    def write(self, scene: Scene) -> str:
        parts = [self._things(scene)] if scene.things else []
        background = self._pick(BACKGROUND_WORDS[scene.background])
        sound = self._pick(LOUD_WORDS if scene.sound else SILENT_WORDS)
        flaw = self._pick(FLAW_WORDS[scene.flaw]) if scene.flaw else ""
        with_background = self._kept()
        if with_background and self._turn(0.7):
            parts = [f"{parts[0]} {self._pick(BACKGROUND_FORMS).format(background)}".strip()]
        elif with_background:
            parts.append(f"{background} background")
        # Sound is what one expects; silence must be said.
        if self._kept() and (not scene.sound or self._turn(0.3, otherwise=False)):
            parts.append(sound)
        if flaw and (self._kept() or self._turn(0.8)):
            parts.append(flaw)
        parts = [part for part in parts if part]
        if len(parts) > 1 and not self._turn(0.7):
            parts = [*parts[1:], parts[0]]
        return ", ".join(parts) or background

    def _things(self, scene: Scene) -> str:
        if len(scene.things) == 1:
            return self._thing(scene.things[0], "")
        left, right = scene.things
        if self._turn(0.4):
            return f"{self._thing(left, 'on the left')} and {self._thing(right, 'on the right')}"
        if self._turn(0.5):
            return f"{self._thing(right, 'on the right')} and {self._thing(left, 'on the left')}"
        return f"{self._thing(left, '')} and {self._thing(right, '')}"

    def _thing(self, thing: Thing, place: str) -> str:
        article = "a" if self._turn(0.7) else ""
        size = self._pick(SIZE_WORDS[thing.size]) if self._kept() else ""
        colour = self._pick(COLOUR_WORDS[thing.colour]) if self._kept() else ""
        shape = self._pick(SHAPE_WORDS[thing.shape]) if self._kept() else "shape"
        finite = self._turn(0.6)
        motion = self._pick(MOTION_WORDS[thing.motion][0 if finite else 1]) if self._kept() else ""
        speed = ""
        if motion and thing.motion != "still" and self._kept():
            speed = self._pick(SPEED_WORDS[thing.speed])
        if article and size == "" and colour[:1] in "o" and colour:
            article = "an"
        words = [article, size, colour, shape, place, motion, speed]
        return " ".join(word for word in words if word)

    def _pick(self, words: Sequence[str]) -> str:
        return words[0] if self._rng is None else str(self._rng.choice(np.asarray(words)))

    def _kept(self) -> bool:
        return self._keep >= 1 or (self._rng is not None and self._rng.random() < self._keep)

    def _turn(self, share: float, otherwise: bool = True) -> bool:
        return otherwise if self._rng is None else bool(self._rng.random() < share)


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted; the comma is one of them."""
    lists = [SHAPE_WORDS, SIZE_WORDS, COLOUR_WORDS, BACKGROUND_WORDS, SPEED_WORDS, FLAW_WORDS]
    phrases = [word for words in lists for synonyms in words.values() for word in synonyms]
    phrases += [word for forms in MOTION_WORDS.values() for form in forms for word in form]
    phrases += [*SILENT_WORDS, *LOUD_WORDS, *BACKGROUND_FORMS, *FLAWS]
    phrases += ["a an shape and on the left right background ,"]
    words = {word for phrase in phrases for word in phrase.replace("{}", "").split()}
    return sorted(words)
