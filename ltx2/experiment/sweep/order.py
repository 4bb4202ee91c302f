"""The order in which cells run, so that what is loaded is used as often as possible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.experiment.sweep.plan import Cell

ORDERS = ("auto", "given")


def check_order(order: str) -> None:
    """Raise UserError for an order that does not exist."""
    if order not in ORDERS:
        hint = nearest(order, ORDERS)
        raise UserError(f"sweep.order={order} is unknown{hint}; use {' or '.join(ORDERS)}")


def run_order(cells: Sequence[Cell], order: str = "auto") -> list[Cell]:
    """`cells` as they run: as given, or those that share what is costly to load side by side.

    The dearest comes first: backend, model, dtype, pipeline, LoRAs, then prompt. Among each,
    what was typed first runs first.
    """
    check_order(order)
    if order == "given":
        return list(cells)
    keys = [_shared(cell.settings) for cell in cells]
    firsts: list[dict[str, int]] = [{} for _ in keys[0]] if keys else []
    for key in keys:
        for seen, part in zip(firsts, key, strict=True):
            seen.setdefault(part, len(seen))
    ranks = [tuple(seen[part] for seen, part in zip(firsts, key, strict=True)) for key in keys]
    return [cells[i] for i in sorted(range(len(cells)), key=lambda i: ranks[i])]


def _shared(settings: Any) -> tuple[str, ...]:
    parts = (
        settings.backend,
        settings.model,
        settings.dtype,
        settings.pipeline,
        settings.lora,
        (settings.prompt, settings.negative_prompt),
    )
    return tuple(json.dumps(part, default=_plain, sort_keys=True) for part in parts)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)
