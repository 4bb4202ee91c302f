"""Streamed blocks on a device with transfers of its own: made ahead, in order, let go of in time.

A host stands for the device here: its transfers only note what they are asked for. The CUDA ones
have the same five methods.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import make_backend
from test_streaming import forward, tiny
from transformer_models import filled

from ltx2.models.transformer import Transformer
from ltx2.nn.module import slots
from ltx2.pipelines.components.transformer import load_transformer, transformer_config
from ltx2.weights.header import read_header
from ltx2.weights.streaming import Streaming

torch = pytest.importorskip("torch")
BLOCKS = 6
WAYS = [Streaming(source, ahead) for source in ("disk", "ram") for ahead in (0, 1, 3)]


@dataclass
class NotedTransfers:
    """What was made, used and finished, by number; an event is the number of what it stands for."""

    buffers: int = 0
    made_so_far: int = 0
    arrived: list[int] = field(default_factory=list)
    left: int = 0
    finished: list[int] = field(default_factory=list)
    most_at_once: int = 0

    def buffer(self, size):
        self.buffers += 1
        return np.empty(size, np.uint8)

    def made(self, make):
        event, self.made_so_far = self.made_so_far, self.made_so_far + 1
        self.most_at_once = max(self.most_at_once, self.made_so_far - self.left)
        return make(), event

    def arrive(self, event):
        self.arrived.append(event)

    def leave(self):
        self.left += 1

    def finish(self, event):
        self.finished.append(event)


def noted_backend():
    from ltx2.backends.torch import TorchBackend

    class Device(TorchBackend):
        noted = NotedTransfers()

        def transfers(self):
            return self.noted

        def synchronize(self):
            raise AssertionError("the whole device is waited for")

    return Device(device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory, request):
    """A file of six blocks."""
    from safetensors.torch import save_file

    source = tiny(request.config.rootpath / "tests" / "golden")
    config = transformer_config(source)
    declared = Transformer.declare(dataclasses.replace(config, layers=BLOCKS))
    whole = filled(declared, make_backend("torch"))
    tensors = {
        f"model.diffusion_model.{slot.name}": slot.value.contiguous()
        for slot in slots(whole)
        if isinstance(slot.value, torch.Tensor)
    }
    sections = source.config | {
        "transformer": source.config["transformer"] | {"num_layers": BLOCKS}
    }
    path = tmp_path_factory.mktemp("blocks") / "model.safetensors"
    save_file(tensors, path, source.metadata | {"config": json.dumps(sections)})
    return read_header(path)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_blocks_are_made_ahead_in_order_and_let_go_of(model, way):
    plain, backend = make_backend("torch"), noted_backend()
    resident = forward(plain, load_transformer(model, plain, "fp32"))
    transformer = load_transformer(model, backend, "fp32", streaming=way)
    noted = backend.noted
    for _ in range(2):
        for ours, theirs in zip(forward(backend, transformer), resident, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert noted.arrived == list(range(2 * BLOCKS)) and noted.left == 2 * BLOCKS
    assert noted.most_at_once <= way.ahead + 2
    if way.source == "ram":
        assert noted.buffers == BLOCKS and not noted.finished
    else:
        assert noted.buffers <= way.ahead + 2
        assert noted.finished == list(range(len(noted.finished)))
        assert noted.buffers + len(noted.finished) == 2 * BLOCKS


def test_a_walk_that_is_broken_off_leaves_its_block_behind_its_work(model):
    backend = noted_backend()
    transformer = load_transformer(model, backend, "fp32", streaming=Streaming("disk", 1))
    walk = iter(transformer.transformer_blocks)
    next(walk)
    walk.close()
    assert backend.noted.left == 1
    assert len(list(transformer.transformer_blocks)) == BLOCKS
