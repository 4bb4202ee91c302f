"""Loading whole or block by block: what is chosen, what is said, and what would help."""

from __future__ import annotations

import logging

import pytest

from ltx2.app.compose import compose
from ltx2.pipelines.memory import Need, choose, place, text_need, transformer_need
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.settings import MemorySettings
from ltx2.weights.streaming import Streaming

GB = 10**9
# 40 blocks of one gigabyte and two beside them; three more to run.
NEED = Need(42 * GB, 3 * GB, GB, 40, 24 * GB, (("guidance.max_batch=1", 1 * GB),))


def placed(free, model="transformer", **given):
    return place(MemorySettings(**given), model, NEED, round(free * GB))


@pytest.mark.parametrize(("free", "streams"), [(60, False), (50.1, False), (49.9, True), (9, True)])
def test_auto_streams_what_needs_more_than_nine_tenths_of_the_free_memory(free, streams):
    placement = placed(free)
    assert (placement.streaming is not None) is streams
    words = "do not fit into" if streams else "fit into"
    told = f"42.0 GB of weights and 3.0 GB to run {words} {free:.1f} GB"
    assert placement.reason == told and placement.shortage is None


@pytest.mark.parametrize("model", ["transformer", "text_encoder"])
def test_what_is_asked_for_is_done_whatever_is_free(model):
    assert placed(9, model, **{model: "resident"}).streaming is None
    asked = placed(900, model, **{model: "stream"}, source="ram", ahead=3)
    assert asked.streaming == Streaming("ram", 3) and asked.reason == f"memory.{model}=stream"


def test_streamed_weights_are_three_blocks_and_what_is_no_block():
    assert NEED.streamed(1) == 5 * GB and NEED.streamed(0) == 4 * GB
    assert NEED.streamed(99) == NEED.weights
    assert Need(7, 1).streamed(1) == 7


def test_a_resident_model_that_does_not_fit_names_what_would():
    line = placed(30, transformer="resident").shortage
    assert line == (
        "the transformer may run out of memory: it needs about 45.0 GB, 15.0 GB more than is free;"
        " what helps: memory.transformer=stream, quant.blocks=int8"
    )
    assert "=stream" in placed(9, transformer="resident").shortage
    assert "int8" not in placed(9, transformer="resident").shortage


def test_a_streamed_model_that_does_not_fit_names_what_would():
    assert placed(8).shortage is None
    ahead = "memory.ahead=0, guidance.max_batch=1"
    assert placed(7.5).shortage.endswith(f"8.0 GB, 0.5 GB more than is free; what helps: {ahead}")
    assert placed(6.5).shortage.endswith("what helps: guidance.max_batch=1")
    assert placed(3).shortage.endswith("a smaller height, width or number of frames")


def test_the_choice_is_said_and_recorded(caplog):
    plan, statistics = make_plan(compose()), {}
    with caplog.at_level(logging.INFO):
        assert choose(plan, "text_encoder", NEED, 100 * GB, statistics) is None
        assert choose(plan, "transformer", NEED, 3 * GB, statistics) == Streaming()
    said = [(record.levelname, record.message) for record in caplog.records]
    reason = "42.0 GB of weights and 3.0 GB to run fit into 100.0 GB"
    assert said[0] == ("INFO", f"the text encoder is loaded whole: {reason}")
    assert [level for level, _ in said] == ["INFO", "INFO", "WARNING"]
    first, second = statistics["memory"]
    assert first["model"] == "text_encoder" and first["mode"] == "resident"
    assert second["mode"] == "streamed from disk" and second["shortage"] == said[2][1]


def test_the_needs_of_the_built_in_model_follow_its_headers():
    plan = make_plan(compose(["pipeline=one_stage"]))
    half, full = (transformer_need(plan, dtype) for dtype in ("bf16", "fp32"))
    assert full.weights == 2 * half.weights and full.working == 2 * half.working
    assert half.blocks == plan.transformer.layers
    assert half.blocks * half.block < half.weights < 2 * half.blocks * half.block
    assert dict(full.smaller)["guidance.max_batch=1"] < full.working
    text = [text_need(plan, "fp32", prompts) for prompts in (1, 2)]
    assert text[0].weights == text[1].weights and text[0].working < text[1].working
    assert text[0].blocks > 1 and text[0].cheaper < text[0].weights


def test_tiles_take_less_to_run_than_the_whole_picture():
    names = ("pipeline=one_stage", "guidance.max_batch=1")
    whole, tiled = (
        transformer_need(make_plan(compose([*names, *more])), "fp32")
        for more in ([], ["denoise_tiles=spatial"])
    )
    assert tiled.working < whole.working and not tiled.smaller
    assert dict(whole.smaller).keys() == {"denoise_tiles=spatial"}
