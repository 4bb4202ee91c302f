"""Prompts read back: the scene that a caption of the grammar in `captions` speaks of.

What a prompt leaves open is None. Word order does not matter beyond what it does in the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from ltx2.pocket.captions import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    FLAW_WORDS,
    LOUD_WORDS,
    MOTION_WORDS,
    SHAPE_WORDS,
    SILENT_WORDS,
    SIZE_WORDS,
    SPEED_WORDS,
    vocabulary,
)
from ltx2.pocket.world import Scene

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class SaidThing:
    """One object as far as a prompt speaks of it; the fields of `Thing`."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    motion: str | None = None
    speed: str | None = None


@dataclass(frozen=True)
class SaidScene:
    """A scene as far as a prompt speaks of it; the fields of `Scene`, things from left to right.

    `unknown`: words that no caption has, each once, in their order.
    """

    background: str | None = None
    things: tuple[SaidThing, ...] = ()
    sound: bool | None = None
    flaw: str | None = None
    unknown: tuple[str, ...] = field(default=(), compare=False)


def scene_words(prompt: str) -> SaidScene:
    """What the prompt says; of two words for the same thing the last counts."""
    words = re.findall(r"\w+(?:'\w+)*", prompt.lower())
    known = set(vocabulary())
    unknown = tuple(dict.fromkeys(word for word in words if word not in known))
    scene: dict[str, str | bool | None] = {}
    things: list[dict[str, str]] = [{}]
    for attribute, value in _phrases(words):
        if attribute == "and":
            things.append({})
        elif attribute in ("background", "flaw"):
            scene[attribute] = value
        elif attribute == "sound":
            scene["sound"] = value == "loud"
        else:
            things[-1][attribute] = value
    return SaidScene(
        background=_text(scene.get("background")),
        things=_in_order([thing for thing in things if thing]),
        sound=None if "sound" not in scene else bool(scene["sound"]),
        flaw=_text(scene.get("flaw")),
        unknown=unknown,
    )


def said(scene: Scene | SaidScene) -> SaidScene:
    """A scene that is spoken of in full; a still thing has no speed, and no flaw is not said."""
    if isinstance(scene, SaidScene):
        return scene
    things = tuple(
        SaidThing(**{**vars(thing), "speed": None if thing.motion == "still" else thing.speed})
        for thing in scene.things
    )
    return SaidScene(scene.background, things, scene.sound, scene.flaw or None)


def _text(value: str | bool | None) -> str | None:
    return None if value is None else str(value)


def _phrases(words: Sequence[str]) -> list[tuple[str, str]]:
    """Attribute and value of every phrase in `words`, the longest one at each place."""
    table, found, at = _phrase_table(), [], 0
    longest = max(len(phrase) for phrase in table)
    while at < len(words):
        for length in range(min(longest, len(words) - at), 0, -1):
            meaning = table.get(tuple(words[at : at + length]))
            if meaning is not None:
                found.append(meaning)
                at += length
                break
        else:
            at += 1
    return found


@cache
def _phrase_table() -> Mapping[Phrase, tuple[str, str]]:
    motions = {name: [*does, *doing] for name, (does, doing) in MOTION_WORDS.items()}
    lists: Mapping[str, Mapping[str, Sequence[str]]] = {
        "shape": SHAPE_WORDS,
        "size": SIZE_WORDS,
        "colour": COLOUR_WORDS,
        "background": BACKGROUND_WORDS,
        "motion": motions,
        "speed": SPEED_WORDS,
        "flaw": FLAW_WORDS,
        "sound": {"silent": SILENT_WORDS, "loud": LOUD_WORDS},
        "place": {"left": ("on the left",), "right": ("on the right",)},
        "and": {"": ("and",)},
        "thing": {"": ("shape",)},
    }
    return {
        tuple(phrase.split()): (attribute, value)
        for attribute, values in lists.items()
        for value, phrases in values.items()
        for phrase in phrases
    }


def _in_order(things: list[dict[str, str]]) -> tuple[SaidThing, ...]:
    """The left one first."""
    if len(things) == 2 and (things[0].get("place"), things[1].get("place")) in (
        ("right", "left"), ("right", None), (None, "left"),
    ):  # fmt: skip
        things = things[::-1]
    fields = SaidThing.__dataclass_fields__
    return tuple(SaidThing(**{k: v for k, v in thing.items() if k in fields}) for thing in things)
