"""Operations and memory of a run's phases, against what its layers and its arrays are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS

from ltx2.app.compose import compose
from ltx2.experiment.machine import Machine
from ltx2.experiment.run import component_dtypes
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_config import STREAMS
from ltx2.nn.module import params
from ltx2.pipelines.cost import (
    call_tokens,
    phase_costs,
    picture_decoding,
    transformer_operations,
    upsampling,
)
from ltx2.pipelines.memory_estimate import PROCESS, Place, phase_memory
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.streamed_estimate import passing_transformer, read_bytes
from ltx2.weights.streaming import Streaming

CPU = Machine("torch", "cpu", "cpu", True, 8 * 10**9)


def plan_of(*overrides):
    return make_plan(compose(list(overrides)))


# --- cost


def tokens_of(name: str, video: int, audio: int, text: int) -> int:
    """How many tokens go through a layer of a block, such as `audio_attn2.to_k.weight`."""
    reads_other = name.split(".")[1] in ("to_k", "to_v")
    if name.startswith("audio_to_video"):
        return audio if reads_other else video
    if name.startswith("video_to_audio"):
        return video if reads_other else audio
    if "attn2" in name and reads_other:
        return text
    return audio if name.startswith("audio_") else video


@pytest.mark.parametrize("gated", [False, True])
def test_operations_of_a_pass_are_those_of_its_layers(gated):
    config = replace(plan_of().transformer, gated=gated)
    video, audio, text = 320, 35, 1024
    total = 0.0
    for slot in params(Transformer.declare(config, STREAMS)):
        name, shape = slot.name, slot.value.shape
        if not name.endswith(".weight") or len(shape) != 2 or "adaln" in name:
            continue
        if name.startswith("transformer_blocks."):
            layer = name.split(".", 2)[2]
            total += 2 * np.prod(shape) * tokens_of(layer, video, audio, text)
        elif "patchify" in name or "proj_out" in name:
            total += 2 * np.prod(shape) * (audio if name.startswith("audio_") else video)
    for width, tokens in ((config.video.width, video), (config.audio.width, audio)):
        total += config.layers * 4 * tokens * (tokens + text) * width
    total += config.layers * 2 * 4 * video * audio * config.audio.width
    assert transformer_operations(config, video, audio, text) == pytest.approx(total)


@pytest.mark.skipif("torch" not in BACKENDS, reason="counts torch's operations")
def test_operations_of_the_convolutions_are_those_that_torch_counts():
    import torch
    from conftest import make_backend
    from torch.utils.flop_counter import FlopCounterMode

    from ltx2.pipelines.components.upsampler import load_upsampler
    from ltx2.pipelines.components.video import load_video_decoder

    plan, backend = plan_of("frames=9"), make_backend("torch")
    decoder = load_video_decoder(plan.headers["checkpoint"], backend)
    network = load_upsampler(plan.headers["spatial_upscaler"], backend)
    refined, base = plan.stage("refine"), plan.stage("base")
    for module, grid, expected in (
        (decoder, refined.grid, picture_decoding(plan)),
        (network, base.grid, upsampling(plan, plan.stage("upscale"))),
    ):
        latent = backend.array(np.ones((1, *grid, 16), np.float32))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(latent)
        assert expected == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_window_costs_its_own_tokens():
    plan = plan_of("pipeline=long_video", "frames=49")
    stage = plan.stage("refine")
    assert stage.repeats == 4
    assert call_tokens(plan, stage).video == 5 * 8 * 8 < stage.tokens


def test_conditioning_tokens_count():
    plan = plan_of("experiment=pocket_keyframes")
    stage = next(s for s in plan.stages if s.sigmas is not None)
    pictures = 2 * stage.grid[1] * stage.grid[2]
    assert call_tokens(plan, stage).video == stage.tokens + pictures


def test_every_phase_of_a_run_has_a_cost():
    costs = {row.phase: row for row in phase_costs(plan_of("experiment=pocket_image"))}
    assert list(costs) == [
        "text", "base conditions", "load transformer", "base", "upscale", "refine conditions",
        "refine", "audio decode", "video decode",
    ]  # fmt: skip
    assert all(row.total > 0 for row in costs.values())
    assert costs["base"].units == 24


# --- memory


def memory_of(plan, dtype="fp32", place=None, **streamed):
    dtypes = dict.fromkeys(component_dtypes(plan.settings, CPU), dtype)
    rows = phase_memory(plan, dtypes, place or Place("torch", "cpu"), None, streamed)
    return {row.phase: row for row in rows}


def test_converted_weights_are_there_twice_while_they_are_read():
    plan = plan_of()
    converted, mapped = memory_of(plan, "fp32"), memory_of(plan, "bf16")
    stored = mapped["base"].weights
    # The pocket is stored in bf16: mapped pages in bf16, a copy twice as large in fp32.
    assert converted["base"].weights == pytest.approx(2 * stored, rel=0.02)
    assert converted["load transformer"].activations == pytest.approx(stored, rel=0.02)
    assert mapped["load transformer"].peak == PROCESS


def test_a_device_holds_arrays_and_no_process():
    plan = plan_of()
    rows = memory_of(plan, "bf16", Place("torch", "cuda"))
    assert all(row.process == 0 for row in rows.values())
    assert rows["refine"].weights == pytest.approx(2 * 2_009_504, rel=0.02)


def test_larger_clips_and_stacked_passes_need_more():
    whole, split = (memory_of(plan_of(f"guidance.max_batch={n}"))["base"] for n in (0, 1))
    assert whole.activations > split.activations
    larger = memory_of(plan_of("height=512", "width=512"))
    assert larger["refine"].activations > 4 * memory_of(plan_of())["refine"].activations - 10**8
    assert larger["video decode"].peak > memory_of(plan_of())["video decode"].peak


def test_tiles_bound_the_memory_of_a_decode():
    peaks = {}
    for tiling in ("off", "both"):
        for frames in (129, 257):
            plan = plan_of("height=512", "width=512", f"frames={frames}", f"tiling={tiling}")
            dtypes = component_dtypes(plan.settings, CPU)
            rows = phase_memory(plan, dtypes, Place("torch", "cpu"), plan.tiling)
            peaks[tiling, frames] = next(r.activations for r in rows if r.phase == "video decode")
    assert peaks["off", 257] > 1.8 * peaks["off", 129]
    assert peaks["both", 257] == pytest.approx(peaks["both", 129], rel=0.1)
    assert peaks["both", 257] < peaks["off", 257] / 2


# --- streaming


def test_a_streamed_model_holds_a_few_of_its_blocks():
    plan = plan_of()
    passing = passing_transformer(plan, "bf16")
    assert passing.stored == plan.transformer.layers * passing.largest
    # Of a file in the dtype: the bytes of the block in use and of those that are read ahead. A
    # few values of each are stored in fp32 and converted.
    few = 2 * passing.copied
    assert 0 < few < 0.02 * passing.loaded
    assert passing.held(Streaming(ahead=0), True) == passing.outside + passing.largest + few
    assert passing.held(Streaming(ahead=2), True) == passing.outside + 3 * passing.largest + few
    whole = passing.outside + passing.stored + few
    for way in (Streaming(ahead=16), Streaming("ram")):
        assert passing.held(way, True) == whole
    # On a device two at a time, however many wait on the host.
    assert passing.held(Streaming("ram"), False) == passing.outside + 2 * passing.loaded


def test_converted_blocks_are_held_beside_their_bytes():
    plan = plan_of()
    half, full = (passing_transformer(plan, dtype) for dtype in ("bf16", "fp32"))
    assert full.loaded == 2 * half.loaded and full.stored == half.stored
    assert 0.98 * full.loaded < full.copied < full.loaded
    assert full.held(Streaming(), True) == full.outside + 2 * full.largest + 2 * full.copied
    packed = passing_transformer(plan_of("quant=int8"), "bf16")
    assert (
        packed.copied == packed.loaded
        and packed.loaded < half.loaded
        and packed.stored == half.stored
    )


def test_streaming_lowers_the_memory_of_the_phases_with_the_model():
    plan = plan_of()
    whole, streamed = memory_of(plan), memory_of(plan, transformer=Streaming(ahead=0))
    for phase in ("load transformer", "base", "refine"):
        assert streamed[phase].peak < whole[phase].peak
    assert streamed["video decode"] == whole["video decode"]
    both = memory_of(plan, transformer=Streaming(), text_encoder=Streaming("disk", 0))
    assert both["text"].peak <= whole["text"].peak


def test_every_call_reads_the_blocks_once():
    plan = plan_of("guidance.max_batch=1")
    passing = passing_transformer(plan, "bf16")
    read = read_bytes(plan, "transformer", passing)
    assert read == {"base": 24 * passing.stored, "refine": 3 * passing.stored}
    stacked = plan_of("guidance.max_batch=2")
    assert read_bytes(stacked, "transformer", passing)["base"] == 12 * passing.stored
    assert read_bytes(plan, "text_encoder", passing) == {"text": 2 * passing.stored}
