"""A text encoder that does not fit: streamed where that is cheap, in int8 where it is not."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from conftest import make_backend
from test_inspect import full_size_file
from test_plan_report import write_gemma_12b

from ltx2.app.compose import compose
from ltx2.experiment.machine import Machine
from ltx2.experiment.report import report
from ltx2.experiment.run import component_dtypes, generate
from ltx2.experiment.session import Session
from ltx2.pipelines.identity import device_identity
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

GB = 10**9
BF16 = dict.fromkeys(COMPONENTS, "bf16")
FP32 = dict.fromkeys(COMPONENTS, "fp32")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The plan of LTX-2 19B with Gemma 3 12B; sparse files."""
    folder = tmp_path_factory.mktemp("models")
    full_size_file(folder, "ltx-2-19b-dev", "ltx-2-19b", model_version="2.0.0")
    write_gemma_12b(folder / "gemma")
    files = [f"paths.models={folder}", "model.files.text_encoder.file=gemma"]
    return make_plan(compose(["model=dev", "pipeline=one_stage", *files]))


def given(plan, **groups):
    """`plan` with values of settings by group."""
    changed = {
        name: replace(getattr(plan.settings, name), **values) for name, values in groups.items()
    }
    return replace(plan, settings=replace(plan.settings, **changed))


REWRITTEN = {"enhance": {"enabled": True, "max_new_tokens": 98}}


def chosen(plan, free, dtypes=BF16, **more):
    return with_text_choice(plan, dtypes, lambda: free, **more)


# Gemma 12B takes 23.5 GB in bf16, half of it and the table of words in int8.
@pytest.mark.parametrize(
    ("free", "settings", "mode"),
    [
        (40, REWRITTEN, "none"),
        (18, {}, "none"),
        (18, REWRITTEN, "int8"),
        (10, REWRITTEN, "none"),
        (18, REWRITTEN | {"quant": {"blocks": "int8"}}, "int8"),
        (18, REWRITTEN | {"quant": {"text": "unpack"}}, "unpack"),
        (18, REWRITTEN | {"memory": {"text_encoder": "stream"}}, "none"),
        (18, REWRITTEN | {"memory": {"text_encoder": "resident"}}, "none"),
        # As many reads as quantising is worth are still streamed.
        (18, {"enhance": {"enabled": True, "max_new_tokens": MANY_READS - 2}}, "none"),
        (18, {"enhance": {"enabled": True, "max_new_tokens": MANY_READS - 1}}, "int8"),
    ],
)
def test_int8_is_chosen_where_streaming_is_no_way_and_it_fits(released, free, settings, mode):
    plan = given(released, **settings)
    made = chosen(plan, free * GB).settings.quant
    assert made.text == mode
    assert (made.blocks, made.group_size) == (plan.settings.quant.blocks, None)


def test_without_need_or_knowledge_the_plan_stays(released):
    plan = given(released, **REWRITTEN)
    assert chosen(plan, None) is plan
    assert chosen(plan, 18 * GB, is_held=lambda: True) is plan


def test_a_streamed_encoder_is_read_for_every_prompt_and_every_new_token(released):
    assert released.prompts == streamed_reads(released) == 2
    assert streamed_reads(given(released, **REWRITTEN)) == 100
    alone = make_plan(compose(["pipeline=one_stage", "guidance=none"]))
    assert alone.prompts == streamed_reads(alone) == 1


def test_the_group_follows_the_widths_unless_it_is_given():
    # The built-in encoder's layers have 64 or 128 inputs.
    plan = make_plan(compose(["pipeline=one_stage"]))
    need = text_need(plan, "fp32", plan.prompts)
    free = round((need.weights + need.working) / USABLE) - 1000
    cramped = given(plan, memory={"ahead": 16})
    made = chosen(cramped, free, FP32)
    assert made.settings.quant.text == "int8"
    assert "streaming does not fit either" in made.notices[0]
    wide = given(cramped, quant={"group_size": 128, "blocks": "int8"})
    assert chosen(wide, free, FP32) is wide


def test_the_choice_is_one_line_with_what_it_costs(released, caplog):
    with caplog.at_level(logging.INFO):
        notices = chosen(given(released, **REWRITTEN), 18 * GB).notices
    assert [record.message for record in caplog.records] == list(notices)
    assert notices[0].startswith("the text encoder is quantised to int8: 24.")
    assert "GB do not fit into 18.0 GB and streaming reads it 100 times; int8 takes 1" in notices[0]
    assert notices[0].endswith("memory.text_encoder=stream keeps it exact")


def test_the_key_of_the_text_holds_the_choice_and_that_of_exact_text_does_not_change(released):
    plan = given(released, **REWRITTEN)
    exact, auto, asked = (
        Keys(p, {}, BF16).text(False)
        for p in (plan, chosen(plan, 18 * GB), given(plan, quant={"text": "int8"}))
    )
    assert exact != auto == asked
    assert Keys(chosen(plan, 40 * GB), {}, BF16).text(False) == exact


def test_the_plan_shows_the_choice_of_the_run(released):
    cpu = Machine("torch", "cpu", "cpu", True, 18 * GB)
    plan = given(released, **REWRITTEN)
    exact, text = (
        report(p, component_dtypes(p.settings, cpu), cpu) for p in (plan, chosen(plan, 18 * GB))
    )
    assert "notice: the text encoder is quantised to int8" in text
    assert "text encoder: loaded whole: 13." in text and "fit into 18.0 GB" in text
    streamed = "text encoder: streamed: 2"
    assert streamed in exact and streamed not in text
    # 2 prompts and 98 tokens read the 21.5 GB of the 48 blocks.
    assert "43.0 GB in text, 2,109 GB in enhance read from disk" in exact


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
    small += ["height=64", "width=64", "prompt=a red ball", "memory.ahead=16"]
    plan = make_plan(compose(["pipeline=one_stage", *small]))
    need = text_need(plan, "fp32", plan.prompts)
    records, cramped = [], round((need.weights + need.working) / USABLE) - 1000
    for free, more in ((cramped, []), (10**11, ["quant.text=int8"])):
        settings = compose(["pipeline=one_stage", *small, *more])
        folder = tmp_path / str(free)
        generate(settings, lambda free=free: Cramped(make_backend(name), free), folder)
        records.append(json.loads((folder / "run.json").read_text()))
    auto, asked = records
    assert auto["settings"]["quant"] == asked["settings"]["quant"]
    assert auto["statistics"]["memory"][0]["quant"] == "int8" and "quantised" in auto["notices"][0]
    measured = [[(row["video_std"], row["audio_std"]) for row in r["steps"]] for r in records]
    assert measured[0] == measured[1] and not asked["notices"]


def test_known_contexts_are_found_in_the_store(tmp_path):
    backend = make_backend("torch")
    cache = CacheSettings(mode="on", folder=str(tmp_path / "cache"))
    keeping = Session().keeping(cache)
    plan = make_plan(compose(["pipeline=one_stage", "guidance=none"]))
    assert not text_is_held(plan, backend, FP32, keeping)()
    key = Keys(plan, device_identity(backend), FP32, keeping.weights).text(False)
    keeping.store.put(key, "text", {}, {})
    assert text_is_held(plan, backend, FP32, keeping)()
