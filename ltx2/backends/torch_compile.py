"""torch.compile around the calls of a module's repeated part: what can, and what it is refused for.

A call is compiled with its module as an argument, so that equal modules share one program: the 48
blocks of a transformer are compiled once. Other shapes are compiled anew; nothing runs uncompiled.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ltx2.errors import UserError, nearest

MODES = ("off", "blocks", "graphs")
# Programs of one call: sizes of stages and tiles, stacked passes, conditions, sets of LoRAs.
MOST_PROGRAMS = 256

Call = Callable[..., Any]


def check_compile(mode: str, kind: str, attention: str) -> None:
    """Raise UserError for a mode that is unknown or that a device of this kind cannot serve."""
    if mode not in MODES:
        hint = nearest(mode, MODES)
        raise UserError(f"backend.compile={mode} is unknown{hint}; use {', '.join(MODES)}")
    if mode == "off":
        return
    given = f"backend.compile={mode}"
    if mode == "graphs" and kind != "cuda":
        other = "off" if kind == "mps" else "blocks or off"
        raise UserError(f"{given} needs CUDA, not {kind}; use {other}")
    if kind == "mps":
        raise UserError(f"{given} is for CUDA and CPU, not {kind}; use off")
    if attention == "chunked":
        raise UserError(
            f"{given} cannot follow the loops of backend.attention=chunked; use auto or sdpa"
        )
    if reason := _missing_compiler(kind):
        raise UserError(f"{given} needs {reason}; or set backend.compile=off")


def _missing_compiler(kind: str) -> str | None:
    """What to install before anything can be compiled for the device; None: all is there."""
    if kind == "cuda":
        there = importlib.util.find_spec("triton") is not None
        return None if there else "the package 'triton', which is not installed; install it"
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        names = [str(name) for name in config.cpp.cxx if name]
        return f"a C++ compiler, and '{names[-1]}' does not run; install g++ or name one in CXX"
    return None


def compiled(call: Call, mode: str) -> Call:
    """`call(module, *inputs)` compiled as `mode` says; the same call for off."""
    return call if mode == "off" else _Compiled(call, graphs=mode == "graphs")


class _Compiled:
    """A compiled call. With `graphs`, a round over the modules begins with the first one met."""

    def __init__(self, call: Call, graphs: bool) -> None:
        self._graphs, self._mode = graphs, "graphs" if graphs else "blocks"
        self._first: weakref.ref[Any] | None = None
        self._fixed: set[int] = set()
        # By default the ninth program is given up, and the call runs as if it were not compiled.
        torch._dynamo.config.recompile_limit = MOST_PROGRAMS
        how = "reduce-overhead" if graphs else None
        self._call = torch.compile(call, dynamic=False, fullgraph=True, mode=how)

    def __call__(self, module: Any, *inputs: Any) -> Any:
        if self._graphs:
            self._prepare(module)
        try:
            return self._call(module, *inputs)
        except _failures() as error:
            told = next((line for line in str(error).splitlines() if line.strip()), "")
            raise UserError(
                f"backend.compile={self._mode} failed ({type(error).__name__}: {told.strip()});"
                " set backend.compile=off"
            ) from error

    def _prepare(self, module: Any) -> None:
        """Graphs read weights where they stand, and reuse the memory of the round before."""
        if self._first is None:
            self._first = weakref.ref(module)
        if self._first() is module:
            torch.compiler.cudagraph_mark_step_begin()
        if id(module) not in self._fixed:
            self._fixed.add(id(module))
            for value in _tensors(module):
                torch._dynamo.mark_static_address(value, guard=False)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors below a module: a dataclass of tensors, modules and lists of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from _tensors(getattr(value, entry.name))


def _failures() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit
