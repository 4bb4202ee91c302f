"""Streamed blocks: the same numbers as resident ones, and only a few blocks in memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from conftest import make_backend
from transformer_models import streams

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.nn.module import copied, slots
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.planning import make_plan
from ltx2.weights.header import read_header
from ltx2.weights.lora import apply_loras, read_lora
from ltx2.weights.streaming import Streaming

WAYS = [Streaming("disk", 0), Streaming("disk", 1), Streaming("disk", 3), Streaming("ram", 1)]


def forward(backend, transformer, dtype="fp32"):
    made = transformer(*streams(backend, transformer, dtype=dtype))
    return [backend.numpy(x) for x in made]


def tiny(golden, name="ltx-2-tiny"):
    return read_header(golden / "checkpoints" / f"{name}.safetensors")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_streamed_and_resident_agree_in_every_bit(backend, golden, way, dtype):
    header = tiny(golden)
    resident = forward(backend, load_transformer(header, backend, dtype), dtype)
    transformer = load_transformer(header, backend, dtype, streaming=way)
    for _ in range(2):  # what was given back is read again
        for ours, theirs in zip(forward(backend, transformer, dtype), resident, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_float8_files_are_streamed_with_their_scales(backend, golden):
    header = tiny(golden, "ltx-2-tiny-fp8")
    resident = forward(backend, load_transformer(header, backend, "fp32"))
    streamed = forward(backend, load_transformer(header, backend, "fp32", streaming=WAYS[1]))
    for ours, theirs in zip(streamed, resident, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loras_go_on_and_off_streamed_blocks(backend, golden):
    header, lora = tiny(golden), read_lora(golden / "checkpoints" / "lora-tiny.safetensors")
    results = {}
    for name, way in (("resident", None), ("streamed", WAYS[1])):
        transformer = load_transformer(header, backend, "fp32", streaming=way)
        plain = forward(backend, transformer)
        apply_loras(transformer, [(lora, 0.8)], backend, "fp32")
        changed = forward(backend, transformer)
        apply_loras(transformer, [], backend, "fp32")
        results[name] = [*plain, *changed, *forward(backend, transformer)]
    for ours, theirs in zip(results["streamed"], results["resident"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.abs(results["streamed"][0] - results["streamed"][2]).max() > 1e-4


def test_few_blocks_exist_at_a_time(golden):
    """Blocks are counted while they pass: one in use, and none left over from before."""
    backend = make_backend("torch")
    transformer = load_transformer(tiny(golden), backend, "fp32", streaming=Streaming("disk", 1))
    alive: list[weakref.ref] = []
    for block in transformer.transformer_blocks:
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1  # the generator's last one
        alive.append(weakref.ref(block))
        del block
    assert len(alive) == len(transformer.transformer_blocks)
    assert len(transformer.transformer_blocks._spare) <= 3


def test_a_walk_that_is_broken_off_can_be_begun_again(golden):
    backend = make_backend("torch")
    transformer = load_transformer(tiny(golden), backend, "fp32", streaming=WAYS[2])
    for _ in transformer.transformer_blocks:
        break
    resident = forward(backend, load_transformer(tiny(golden), backend, "fp32"))
    np.testing.assert_array_equal(forward(backend, transformer)[0], resident[0])


def test_a_file_that_shrank_is_noticed(golden, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((golden / "checkpoints" / "ltx-2-tiny.safetensors").read_bytes())
    backend = make_backend("torch")
    transformer = load_transformer(read_header(path), backend, "fp32", streaming=WAYS[1])
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="ends inside"):
        forward(backend, transformer)


def test_the_placeholders_stay_declared(golden):
    transformer = load_transformer(tiny(golden), make_backend("torch"), "fp32", streaming=WAYS[0])
    before = [slot.name for slot in slots(transformer)]
    list(transformer.transformer_blocks)
    assert [slot.name for slot in slots(transformer)] == before
    template = transformer.transformer_blocks[0]
    again = copied(template)
    assert again is not template and again.attn1 is not template.attn1
    assert again.attn1.to_q.weight is template.attn1.to_q.weight


@pytest.mark.parametrize(
    ("given", "line"),
    [(("tape", 1), "disk or ram, not from 'tape'"), (("disk", -1), "must be 0 to 16")],
)
def test_what_cannot_be_streamed_from_is_refused(given, line):
    with pytest.raises(UserError, match=line):
        Streaming(*given)


def test_a_run_of_the_pocket_model_is_the_same(backend):
    header = make_plan(compose()).headers["checkpoint"]
    resident = forward(backend, load_transformer(header, backend, "fp32"))
    streamed = forward(backend, load_transformer(header, backend, "fp32", streaming=WAYS[1]))
    for ours, theirs in zip(streamed, resident, strict=True):
        np.testing.assert_array_equal(ours, theirs)
