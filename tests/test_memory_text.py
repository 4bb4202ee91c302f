"""The streamed text encoder: the numbers of the resident one, and chosen where it does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_backend

from ltx2.app.compose import compose
from ltx2.experiment.run import generate
from ltx2.media.video import read_video
from ltx2.models.gemma_generate import GemmaMemory, next_logits
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.weights.quantise import Quantisation
from ltx2.weights.streaming import Streaming

IDS = np.array([[2, 40, 300, 7, 199]], np.int32)
TINY = {
    "gemma-3": "gemma-3-tiny",
    "gemma-4": "gemma-4-tiny",
    "packed": "ltx-2.5-tiny/text_encoders/gemma4-tiny-with-proj.safetensors",
}


@pytest.mark.parametrize("way", [Streaming("disk", 0), Streaming("disk", 2), Streaming("ram", 1)])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_all_hidden_states_agree_in_every_bit(backend, golden, way, name, dtype):
    files = read_gemma(golden / "checkpoints" / TINY[name])
    resident = load_gemma(files, backend, dtype)(IDS)
    streamed = load_gemma(files, backend, dtype, streaming=way)
    for _ in range(2):
        for ours, theirs in zip(streamed(IDS), resident, strict=True):
            np.testing.assert_array_equal(backend.numpy(ours), backend.numpy(theirs))


def test_a_quantised_encoder_is_streamed_too(backend, golden):
    files, how = read_gemma(golden / "checkpoints" / "gemma-3-tiny"), Quantisation("int8", 32)
    resident = load_gemma(files, backend, "fp32", how)(IDS)
    streamed = load_gemma(files, backend, "fp32", how, Streaming())(IDS)
    for ours, theirs in zip(streamed, resident, strict=True):
        np.testing.assert_array_equal(backend.numpy(ours), backend.numpy(theirs))


def test_a_streamed_encoder_writes_text(backend, golden):
    files, logits = read_gemma(golden / "checkpoints" / "gemma-3-tiny"), []
    for way in (None, Streaming()):
        model = load_gemma(files, backend, "fp32", streaming=way)
        memory = GemmaMemory.empty(model)
        logits.append([next_logits(model, ids, memory) for ids in (IDS[0], IDS[0, :1])])
    np.testing.assert_array_equal(logits[0], logits[1])


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_run_with_everything_streamed_makes_the_same_clip(tmp_path, name):
    clips, kept = [], []
    for memory in ("resident", "stream"):
        settings = compose(
            ["pipeline=one_stage", "scheduler.steps=1", "cache=off", f"memory={memory}"]
        )
        clip = generate(settings, lambda: make_backend(name), tmp_path / memory)
        clips.append(read_video(clip)[0])
        kept.append(json.loads((tmp_path / memory / "run.json").read_text())["statistics"])
    np.testing.assert_array_equal(*clips)
    modes = [{row["model"]: row["mode"] for row in run["memory"]} for run in kept]
    assert modes[0] == {"text_encoder": "resident", "transformer": "resident"}
    assert modes[1] == dict.fromkeys(modes[0], "streamed from disk")
