"""A debug mode in which products of arrays of different dtypes are errors, on either backend.

MLX promotes them silently, which costs time and memory, and MPS fails in them far from their
cause. Sums may mix: float32 tables on a bfloat16 latent are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from ltx2 import ops

FLOATS = ("float32", "bfloat16", "float16")
# Positions of what is multiplied, and of a bias that the same kernel adds, among an op's arguments.
PRODUCTS: dict[str, tuple[int, ...]] = {
    "linear": (0, 1, 2),
    "linear_gelu": (0, 1, 2),
    "quantised_linear": (0, 2, 3, 4),
    "attention": (0, 1, 2),
    "neighbourhood_attention": (0, 1, 2),
    "conv": (0, 1, 2),
    "norm_silu_conv3d": (0, 4, 5),
    "conv_transpose1d": (0, 1, 2),
}


class MixedDtypes(TypeError):
    """A product of arrays of different dtypes, with the name of the op and all shapes."""


class _Strict:
    """The ops of a backend module; its products look at their inputs first."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._module, name)
        made = _checked(name, op, PRODUCTS[name]) if name in PRODUCTS else op
        setattr(self, name, made)
        return made


def _checked(name: str, op: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    @wraps(op)
    def run(*arguments: Any) -> Any:
        arrays = [arguments[i] for i in places if i < len(arguments) and arguments[i] is not None]
        dtypes = [str(x.dtype).rpartition(".")[2] for x in arrays]
        # Codes of quantised weights are no floats.
        if len(set(dtypes) & set(FLOATS)) > 1:
            pairs = zip(arrays, dtypes, strict=True)
            told = ", ".join(f"{dtype} {list(x.shape)}" for x, dtype in pairs)
            raise MixedDtypes(f"{name} of different dtypes: {told}")
        return op(*arguments)

    return run


def refuse_mixed_products(refuse: bool = True) -> None:
    """Turn the debug mode on or off for the whole process."""
    ops.view_backends(_Strict if refuse else None)


@contextmanager
def no_mixed_products() -> Iterator[None]:
    """The debug mode within a block; MixedDtypes at the first op that breaks it."""
    refuse_mixed_products()
    try:
        yield
    finally:
        refuse_mixed_products(False)
