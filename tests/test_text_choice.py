"""A text encoder that does not fit: streamed where that is cheap, in int8 where it is not."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.experiment.machine import Machine
from ltx2.experiment.report import report
from ltx2.experiment.run import component_dtypes, generate
from ltx2.experiment.session import Session
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.memory import USABLE, text_need
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.settings import CacheSettings
from ltx2.pipelines.text_choice import (
    MANY_READS,
    streamed_reads,
    text_is_held,
    with_text_choice,
)
from ltx2.weights.dtype_policy import COMPONENTS

FP32 = dict.fromkeys(COMPONENTS, "fp32")
ENHANCED = "enhance.enabled=true"
SHORT = "enhance.max_new_tokens=3"
NO_ROOM_TO_STREAM = "memory.ahead=16"


def plan_of(*overrides):
    return make_plan(compose(["pipeline=one_stage", *overrides]))


def bytes_of(plan) -> int:
    need = text_need(plan, "fp32", plan.prompts)
    return need.weights + need.working


def room(plan, mode="int8") -> int:
    """Free memory into which the encoder fits in `mode` and no better."""
    quant = replace(plan.settings.quant, text=mode)
    return round(
        bytes_of(replace(plan, settings=replace(plan.settings, quant=quant))) / USABLE + 1000
    )


def chosen(plan, free, **more):
    return with_text_choice(plan, FP32, lambda: free, **more)


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        ([], "none"),
        ([ENHANCED], "int8"),
        # As many reads as quantising is worth are still streamed.
        ([ENHANCED, SHORT], "none"),
        ([NO_ROOM_TO_STREAM], "int8"),
        ([ENHANCED, "memory.text_encoder=stream"], "none"),
        ([ENHANCED, "memory.text_encoder=resident"], "none"),
        ([ENHANCED, "quant.text=unpack"], "unpack"),
        ([ENHANCED, "quant.blocks=int8"], "int8"),
    ],
)
def test_int8_is_chosen_where_streaming_reads_again_and_again_or_does_not_fit(overrides, mode):
    plan = plan_of(*overrides)
    assert chosen(plan, room(plan)).settings.quant.text == mode
    assert chosen(plan, room(plan)).settings.quant.blocks == plan.settings.quant.blocks


def test_an_encoder_that_fits_and_one_that_fits_in_no_way_stay_as_they_are():
    plan = plan_of(ENHANCED)
    assert chosen(plan, room(plan, "none")) is plan
    assert chosen(plan, room(plan) - 5000) is plan
    assert chosen(plan, None) is plan


def test_contexts_that_are_known_need_no_quantised_encoder():
    plan = plan_of(ENHANCED)
    assert chosen(plan, room(plan), is_held=lambda: True) is plan


def test_a_streamed_encoder_is_read_for_every_prompt_and_every_new_token():
    assert streamed_reads(plan_of("guidance=none")) == 1
    assert streamed_reads(plan_of()) == 2
    assert streamed_reads(plan_of(ENHANCED, "enhance.max_new_tokens=20")) == 22 > MANY_READS


def test_the_group_is_halved_where_a_width_asks_for_it():
    plan = plan_of(ENHANCED)
    assert chosen(plan, room(plan)).settings.quant.group_size is None
    wide = plan_of(ENHANCED, "quant.blocks=int8", "quant.group_size=128")
    # 64 inputs are no multiple of 128, and the size that was given stays.
    assert chosen(wide, room(wide)).settings.quant.text == "none"


def test_the_choice_is_one_line_with_what_it_costs(caplog):
    plan = plan_of(ENHANCED, "enhance.max_new_tokens=98")
    with caplog.at_level(logging.INFO):
        notices = chosen(plan, room(plan)).notices
    assert [record.message for record in caplog.records][-1:] == list(notices)
    assert notices[0].startswith("the text encoder is quantised to int8: 0.0 GB do not fit into")
    assert "streaming reads it 100 times; int8 takes 0.0 GB" in notices[0]
    assert notices[0].endswith("memory.text_encoder=stream keeps it exact")
    cramped = plan_of(NO_ROOM_TO_STREAM)
    assert "streaming does not fit either" in chosen(cramped, room(cramped)).notices[0]


def test_the_key_of_the_text_holds_the_choice_and_that_of_exact_text_does_not_change():
    plan = plan_of(ENHANCED)
    made = [Keys(p, {}, FP32).text(False) for p in (plan, chosen(plan, room(plan)))]
    asked = Keys(plan_of(ENHANCED, "quant.text=int8"), {}, FP32).text(False)
    assert made[0] != made[1] == asked


def test_the_plan_shows_the_choice_of_the_run():
    plan = plan_of(ENHANCED, "dtype=fp32")
    free = room(plan)
    cpu = Machine("torch", "cpu", "cpu", True, free)
    text = report(chosen(plan, free), component_dtypes(plan.settings, cpu), cpu)
    assert "notice: the text encoder is quantised to int8" in text
    assert "text encoder: loaded whole: 0.0 GB of weights" in text


class Cramped:
    """A backend with so much free memory."""

    def __init__(self, backend, free: int) -> None:
        self._backend, self._free = backend, free

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def free_bytes(self) -> int:
        return self._free


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_run_records_its_choice_and_is_the_run_that_asked_for_it(tmp_path, name):
    small = ["scheduler.steps=1", "guidance=none", "dtype=fp32", "checks=off", "frames=5"]
    small += ["height=64", "width=64", "prompt=a red ball", NO_ROOM_TO_STREAM]
    plan = plan_of(*small)
    records = []
    for free, more in ((room(plan), []), (10**11, ["quant.text=int8"])):
        settings = compose(["pipeline=one_stage", *small, *more])
        folder = tmp_path / str(free)
        generate(settings, lambda free=free: Cramped(make_backend(name), free), folder)
        records.append(json.loads((folder / "run.json").read_text()))
    auto, asked = records
    assert auto["settings"]["quant"] == asked["settings"]["quant"]
    assert auto["statistics"]["memory"][0]["quant"] == "int8" and "quantised" in auto["notices"][0]
    assert auto["steps"] == asked["steps"] and not asked["notices"]


def test_known_contexts_are_found_in_the_store(tmp_path):
    backend = make_backend("torch")
    cache = CacheSettings(mode="on", folder=str(tmp_path / "cache"))
    keeping = Session().keeping(cache)
    plan = plan_of("guidance=none")
    assert not text_is_held(plan, backend, FP32, keeping)()
    from ltx2.pipelines.identity import device_identity

    key = Keys(plan, device_identity(backend), FP32, keeping.weights).text(False)
    keeping.store.put(key, "text", {}, {})
    assert text_is_held(plan, backend, FP32, keeping)()
