"""Compiled transformer blocks: the same numbers, one program for equal blocks, clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_backend
from transformer_models import streams, tiny_transformer

from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.models.transformer import Perturbations
from ltx2.models.transformer_block import Block
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.identity import device_identity, digest
from ltx2.pipelines.memory import check_compiled
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.settings import MemorySettings
from ltx2.weights.header import read_header
from ltx2.weights.lora import apply_loras, read_lora
from ltx2.weights.quantise import STORED, Quantisation
from ltx2.weights.streaming import Streaming

torch = pytest.importorskip("torch")
# Importing the compiler makes torch warn of its own older parts.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

GUIDED = Perturbations(((("video_self", (1,)), ("video_to_audio", None)),))


def forward(backend, transformer, perturbations=None):
    with backend.inference():
        made = transformer(*streams(backend, transformer), perturbations)
        return [backend.numpy(x) for x in made]


def agree(compiled, eager, bound):
    for ours, theirs in zip(compiled, eager, strict=True):
        assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


def traced(backend, transformer, perturbations=None):
    """The outputs, and the number of programs that a compiler would make of the blocks."""
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    call = torch.compile(Block.__call__, dynamic=False, fullgraph=True, backend="eager")
    transformer.run_block = call
    made = forward(backend, transformer, perturbations)
    return made, counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_compiled_blocks_agree_with_plain_ones():
    from ltx2.backends.torch import TorchBackend

    backend = TorchBackend(device="cpu", compile="blocks")
    transformer = tiny_transformer(backend, "2.0", num_layers=3)
    eager = forward(backend, transformer)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    transformer.run_block = backend.compiled(Block.__call__)
    agree(forward(backend, transformer), eager, 1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["2.0", "2.5"])
def test_equal_blocks_are_one_program(generation):
    backend = make_backend("torch")
    transformer = tiny_transformer(backend, generation, num_layers=3)
    eager = forward(backend, transformer)
    made, programs = traced(backend, transformer)
    agree(made, eager, 1e-5)
    assert programs == 1


@pytest.mark.slow
def test_a_block_with_a_perturbation_of_its_own_is_a_second_program():
    backend = make_backend("torch")
    transformer = tiny_transformer(backend, "2.0", num_layers=4)
    eager = forward(backend, transformer, GUIDED)
    made, programs = traced(backend, transformer, GUIDED)
    agree(made, eager, 1e-5)
    assert programs == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fp8", "int4", "mxfp8"])
def test_quantised_blocks_are_one_program_whatever_their_scales(golden, mode):
    backend = make_backend("torch")
    header = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    how = Quantisation(mode, 32)
    transformer = load_transformer(header, backend, "fp32", quantisation=how)
    eager = forward(backend, transformer)
    made, programs = traced(backend, transformer)
    agree(made, eager, 1e-5)
    assert programs == 1


@pytest.mark.slow
def test_loras_are_compiled_with_their_float8_layers(golden):
    backend = make_backend("torch")
    folder = golden / "checkpoints"
    header = read_header(folder / "ltx-2-tiny-fp8.safetensors")
    transformer = load_transformer(header, backend, "fp32", quantisation=STORED)
    before = forward(backend, transformer)
    apply_loras(transformer, [(read_lora(folder / "lora-tiny.safetensors"), 0.8)], backend, "fp32")
    eager = forward(backend, transformer)
    made, _ = traced(backend, transformer)
    agree(made, eager, 1e-5)
    assert np.abs(made[0] - before[0]).max() > 1e-4


def test_the_wrapper_of_graphs_marks_weights_and_computes_the_same():
    from ltx2.backends.torch_compile import compiled
    from ltx2.nn.layers import Linear

    layers = [Linear(torch.full((4, 4), float(i))) for i in (1, 2)]
    call = compiled(Linear.__call__, "graphs")
    x = torch.ones(2, 4)
    for _ in range(2):
        assert [float(call(layer, x)[0, 0]) for layer in layers] == [4.0, 8.0]
    assert all(layer.weight._dynamo_static_input_type == "unguarded" for layer in layers)


def test_what_the_compiler_cannot_follow_is_one_line():
    from ltx2.backends.torch_compile import compiled

    with pytest.raises(UserError, match=r"compile=blocks failed .*compile=off$") as told:
        compiled(lambda module, x: x if x.sum() > 0 else -x, "blocks")(None, torch.ones(2))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"compile": "blok"}, r"compile=blok is unknown; did you mean 'blocks'\?"),
        ({"compile": "graphs"}, r"compile=graphs needs CUDA, not cpu; use blocks or off"),
        ({"compile": "blocks", "attention": "chunked"}, "attention=chunked; use auto or sdpa"),
    ],
    ids=str,
)
def test_what_cannot_be_compiled_is_refused(options, line):
    from ltx2.backends.torch import TorchBackend

    with pytest.raises(UserError, match=line):
        TorchBackend(device="cpu", **options)


def test_mps_is_refused():
    from ltx2.backends.torch_compile import check_compile

    with pytest.raises(UserError, match="compile=blocks is for CUDA and CPU, not mps; use off"):
        check_compile("blocks", "mps", "auto")


def test_a_missing_compiler_is_refused_before_anything_is_loaded(tmp_path):
    arguments = ["backend.device=cpu", "backend.compile=blocks", f"paths.outputs={tmp_path}"]
    command = [sys.executable, "-m", "ltx2", *arguments]
    told = subprocess.run(
        command, env=os.environ | {"CXX": "no-such-compiler"}, capture_output=True, text=True
    )
    assert told.returncode == 2
    errors = [line for line in told.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and "needs a C++ compiler, and 'no-such-compiler'" in errors[0]


def test_streaming_is_refused_by_wish_and_by_choice():
    from ltx2.backends.torch import TorchBackend

    backend = TorchBackend(device="cpu", compile="blocks")
    plan = make_plan(compose(["memory.transformer=stream"]))
    with pytest.raises(UserError, match=r"not memory.transformer=stream; use memory.tra"):
        Runner(plan, backend, {"transformer": "fp32"})
    with pytest.raises(UserError, match=r"into which they do not fit; use quant.blocks=int8"):
        check_compiled(MemorySettings(), backend, Streaming())
    check_compiled(MemorySettings(text_encoder="stream"), backend)
    check_compiled(MemorySettings(transformer="stream"), make_backend("torch"), Streaming())


def test_the_mode_enters_the_record_and_the_keys():
    from ltx2.backends.torch import TorchBackend

    plain, made = make_backend("torch"), TorchBackend(device="cpu", compile="blocks")
    assert (plain.describe()["compile"], made.describe()["compile"]) == ("off", "blocks")
    assert digest(device_identity(plain)) != digest(device_identity(made))


def test_a_backend_that_compiles_nothing_gives_the_call_back(backend):
    assert backend.compiled(Block.__call__) is Block.__call__
