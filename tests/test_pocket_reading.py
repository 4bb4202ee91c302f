"""Prompts read back as scenes."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2.pocket.captions import caption, random_caption
from ltx2.pocket.reading import SaidScene, SaidThing, said, scene_words
from ltx2.pocket.world import Scene, Thing, draw_scene


def test_captions_that_say_everything_are_read_back_whole():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        scene = draw_scene(rng, flawed=0.3)
        text = caption(scene, rng)
        found, wanted = scene_words(text), said(scene)
        assert found.background == wanted.background, text
        assert found.things == wanted.things, text
        assert found.flaw == wanted.flaw, text
        # That there is sound is mostly left unsaid.
        assert found.sound is wanted.sound or (found.sound is None and scene.sound), text
        assert found.unknown == (), text


def test_what_a_caption_leaves_out_is_none_and_the_rest_is_right():
    rng, said_count = np.random.default_rng(1), 0
    for _ in range(2000):
        scene = draw_scene(rng, flawed=0.3)
        text = random_caption(scene, rng)
        found, wanted = scene_words(text), said(scene)
        assert found.unknown == (), text
        assert len(found.things) == len(wanted.things), text
        parts = [(found, wanted), *zip(found.things, wanted.things, strict=True)]
        for part, whole in parts:
            for name in set(vars(part)) - {"things", "unknown"}:
                value = getattr(part, name)
                assert value in (None, getattr(whole, name)), (text, name)
                said_count += value is not None
    assert said_count > 10_000


@pytest.mark.parametrize(
    ("prompt", "thing"),
    [
        ("a ball", SaidThing(shape="circle")),
        ("A HUGE violet plus!", SaidThing("cross", "purple", "big")),
        ("a box rises to the left fast", SaidThing("square", motion="up left", speed="fast")),
        ("a shape goes around in a circle", SaidThing(motion="circling")),
        ("a circle circles", SaidThing("circle", motion="circling")),
        ("a triangle jumps up and down", SaidThing("triangle", motion="bouncing")),
        ("green", SaidThing(colour="green")),
    ],
)
def test_synonyms_and_phrases_have_one_meaning(prompt, thing):
    assert scene_words(prompt) == SaidScene(things=(thing,))


def test_of_two_things_the_one_on_the_left_is_the_first():
    red, blue = SaidThing("circle", "red"), SaidThing("square", "blue")
    for prompt in (
        "a red ball on the left and a blue box on the right",
        "a blue box on the right and a red ball on the left",
        "a red ball and a blue box",
        "a blue box on the right and a red ball",
    ):
        assert scene_words(prompt).things == (red, blue)
    both = scene_words("a red ball on the left moves up and left and a blue box rises")
    assert [thing.motion for thing in both.things] == ["up left", "up"]


def test_background_sound_and_flaw_may_stand_anywhere():
    scene = SaidScene("gray", (SaidThing("circle"),), sound=False, flaw="dim")
    assert scene_words("dark, a ball in front of a grey wall, without sound") == scene
    assert scene_words("without sound, grey background, dark, a ball") == scene
    assert scene_words("a ball with a tone").sound is True
    assert scene_words("blurry") == SaidScene(flaw="blurry")


def test_words_outside_the_vocabulary_are_named_once_each():
    found = scene_words("Two cats and a red ball, 4k, cats on teal")
    assert found.unknown == ("two", "cats", "4k")
    assert found.background == "teal" and found.things[-1] == SaidThing("circle", "red")
    assert scene_words("") == SaidScene() and scene_words("").unknown == ()


def test_a_scene_says_all_but_the_speed_of_what_stays_and_the_lack_of_a_flaw():
    scene = Scene("teal", (Thing("cross", "red"), Thing("cross", "blue", motion="up")))
    still, moving = said(scene).things
    assert (still.speed, moving.speed) == (None, "slow")
    assert said(scene).flaw is None and said(scene).sound is True
    assert said(said(scene)) == said(scene)
