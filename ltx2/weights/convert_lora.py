"""LoRAs added into the weights of a model that is being written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_config import TransformerConfig
from ltx2.nn.layers import Linear
from ltx2.nn.lora import Factors, fuse
from ltx2.ops import Array
from ltx2.weights.build import read_fp8_linear, read_tensor
from ltx2.weights.convert import Model
from ltx2.weights.lora import match_lora, read_factors
from ltx2.weights.lora_file import LoraFile, Pair, read_lora
from ltx2.weights.quantise_stored import scale_name, stored_kind
from ltx2.weights.writing import Piece

_PREFIX = "model.diffusion_model."
_DTYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def with_loras(model: Model, loras: Sequence[tuple[Path, float]], backend: Any) -> Model:
    """`model` with LoRAs (file, strength) added into its transformer, as fusing does at load.

    Float8 weights get fresh scales. Every pair must find its layer. The sums are made while the
    model is written, one layer at a time. Raises UserError.
    """
    if "transformer" not in model.components:
        raise UserError(f"{model.name} holds no transformer that a LoRA could be added to")
    module = Transformer.declare(TransformerConfig.from_metadata(model.config["transformer"]))
    stacks: dict[str, list[_Part]] = {}
    for path, strength in loras:
        lora = read_lora(path)
        for target in match_lora(module, lora):
            stacks.setdefault(target.slot.name, []).append(_Part(lora, target.pair, strength))
    tensors = dict(model.tensors)
    for name, stack in stacks.items():
        layer = _Layer(tensors[f"{_PREFIX}{name}.weight"], stack, backend)
        for piece in layer.pieces():
            tensors[piece.name] = piece
    note = ", ".join(f"{path.name} {strength:g}" for path, strength in loras)
    return replace(model, tensors=tensors, metadata=model.metadata | {"merged_loras": note})


@dataclass(frozen=True)
class _Part:
    lora: LoraFile
    pair: Pair
    strength: float

    def factors(self, backend: Any, dtype: str) -> Factors:
        return read_factors(self.lora, self.pair, self.strength, backend, dtype)


@dataclass(frozen=True)
class _Layer:
    """The weight of one layer, and what is added to it."""

    weight: Piece
    stack: list[_Part]
    backend: Any

    def pieces(self) -> Iterator[Piece]:
        """The weight, and the scale of a float8 one."""
        assert self.weight.header is not None
        kind = stored_kind(self.weight.header, self.weight.stored)
        if kind is None and self.weight.dtype in _DTYPES:
            yield replace(self.weight, chunks=self._plain)
            return
        scale = scale_name(self.weight.stored)
        if kind != "fp8" or scale not in self.weight.header.tensors:
            raise UserError(
                f"'{self.weight.name}' is quantised as {kind or self.weight.dtype}, into which"
                " LoRAs cannot be added; start from the bf16 file, or one with float8 scales"
            )
        yield replace(self.weight, chunks=lambda: [self._float8()[0]])
        yield Piece(scale_name(self.weight.name), "F32", (), lambda: [self._float8()[1]])

    def _plain(self) -> list[bytes]:
        header, dtype = self.weight.header, _DTYPES[self.weight.dtype]
        assert header is not None
        # The reference adds in bfloat16 where the weights are bfloat16.
        factors = [part.factors(self.backend, "bf16" if dtype == "bf16" else "fp32")
                   for part in self.stack]  # fmt: skip
        file = self.backend.open(str(header.path))
        value = read_tensor(file, header, self.weight.stored, self.backend)
        layer = fuse(Linear(self.backend.place(value, dtype), None), factors)
        return [stored_bytes(layer.weight, self.weight.dtype)]

    def _float8(self) -> tuple[bytes, bytes]:
        header, name = self.weight.header, self.weight.stored.removesuffix(".weight")
        assert header is not None
        factors = [part.factors(self.backend, "bf16") for part in self.stack]
        layer = read_fp8_linear(header, name, self.backend, "bf16").fused(factors)
        scale = np.float32(layer.weight_scale).astype("<f4")
        return stored_bytes(layer.weight, "F8_E4M3"), scale.tobytes()


def stored_bytes(value: Array, dtype: str) -> bytes:
    """Little-endian bytes of an array whose values are exact in `dtype`."""
    host = np.ascontiguousarray(ops.to_numpy(value))
    if dtype == "BF16":
        return (host.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if dtype in _DTYPES:
        host = host.astype({"F16": "<f2", "F32": "<f4"}[dtype])
    return host.tobytes()
