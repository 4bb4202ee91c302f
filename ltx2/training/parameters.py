"""The tensors of a declared module as torch leaves: first values, masters, averages, freezing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltx2.backends.torch import DTYPES
from ltx2.models.gemma3 import GemmaNorm
from ltx2.nn.module import Param, Slot, params, slots

# Tables and embeddings have no fan-in; what they add must be small beside what it is added to.
TABLE_STD = 0.02


def initialise(module: Any, seed: int, device: str = "cpu") -> Any:
    """Replace every `Param` of a declared module by a float32 tensor; returns the module.

    Weights are normal with variance 1 / fan-in, biases 0, norm weights 1, statistics mean 0 and
    deviation 1, everything else normal with deviation 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    for slot in params(module):
        slot.replace(_first_value(slot, generator).to(device))
    return module


def _first_value(slot: Slot, generator: torch.Generator) -> Tensor:
    param: Param = slot.value
    shape, owner = param.shape, type(slot.owner).__name__
    if param.default is not None:
        return torch.from_numpy(param.default()).clone()
    if slot.name.endswith("bias") or slot.name.endswith("mean-of-means"):
        return torch.zeros(shape)
    if owner == "GemmaNorm":  # stored minus one
        return torch.zeros(shape)
    if "Norm" in owner or slot.name.endswith("std-of-means"):
        return torch.ones(shape)
    if owner == "Embedding":  # times sqrt(width) at use
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
    if slot.name.endswith("weight") and len(shape) > 1:
        fan_in = shape[0] * shape[2] / _stride(slot) if param.kind == "conv_transpose" else 0
        fan_in = fan_in or math.prod(shape[1:])
        return torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    return torch.randn(shape, generator=generator) * TABLE_STD


def _stride(slot: Slot) -> int:
    return int(slot.owner.stride)


def tensors(modules: dict[str, Any]) -> Iterator[tuple[str, Slot]]:
    """Every tensor below the modules as (name of the module + name in the file, slot)."""
    for key, module in modules.items():
        for slot in slots(module):
            if isinstance(slot.value, Tensor):
                yield f"{key}.{slot.name}", slot


@dataclass
class Leaves:
    """The trained tensors: float32 masters, and what the modules compute with.

    With `dtype` fp32 both are the same tensors. With bf16 the modules hold bfloat16 copies, whose
    gradients go to the masters; a step too small for bfloat16 is not lost.
    """

    masters: dict[str, Tensor]
    working: dict[str, Tensor]

    @classmethod
    def of(cls, modules: dict[str, Any], dtype: str, trains: Callable[[str], bool]) -> Leaves:
        """Put all tensors in `dtype` and make leaves of those whose name `trains` accepts."""
        masters, working = {}, {}
        for name, slot in tensors(modules):
            value = slot.value.detach().float()
            pinned = isinstance(slot.owner, GemmaNorm)
            used = value if dtype == "fp32" or pinned else value.to(DTYPES[dtype])
            used.requires_grad_(trains(name))
            slot.replace(used)
            if used.requires_grad:
                masters[name], working[name] = value, used
        return cls(masters, working)

    def collect(self, complete: bool = False) -> list[Tensor]:
        """Masters with the gradients of this step, in float32.

        Those that the step did not use are left out, or with `complete` have zeros.
        """
        found = []
        for name, working in self.working.items():
            master = self.masters[name]
            if master is not working:
                master.grad = None if working.grad is None else working.grad.float()
                working.grad = None
            if master.grad is None and complete:
                master.grad = torch.zeros_like(master)
            if master.grad is not None:
                found.append(master)
        return found

    @torch.no_grad()
    def publish(self) -> None:
        """Give the modules the masters' new values."""
        for name, working in self.working.items():
            if working is not self.masters[name]:
                working.copy_(self.masters[name])


@dataclass
class Average:
    """Exponential moving average of the masters; `decay` grows from 0 to its value."""

    values: dict[str, Tensor]
    decay: float

    @classmethod
    def of(cls, leaves: Leaves, decay: float) -> Average:
        return cls({name: x.detach().clone() for name, x in leaves.masters.items()}, decay)

    @torch.no_grad()
    def update(self, leaves: Leaves, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        values = [self.values[name] for name in leaves.masters]
        torch._foreach_lerp_(values, list(leaves.masters.values()), 1 - decay)
