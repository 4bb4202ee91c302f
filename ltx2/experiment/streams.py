"""Phases in which a model is streamed, in a plan and in records.

A streamed phase takes the time of its arithmetic or that of its reading, whichever is longer, so
earlier runs predict it only if they streamed the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ltx2.pipelines.memory import Placement
from ltx2.weights.streaming import Streaming

# Kinds of phases by the model that may be streamed in them.
STREAMED_IN = {
    "text": "text_encoder",
    "enhance": "text_encoder",
    "load": "transformer",
    "sample": "transformer",
}
# Added to the kind of a phase that is.
STREAMED = ", streamed"
NO_PLACES: Mapping[str, Placement] = MappingProxyType({})


def streamed_models(places: Mapping[str, Placement]) -> dict[str, Streaming]:
    """Those of `places` that are streamed, and how."""
    return {model: p.streaming for model, p in places.items() if p.streaming is not None}


def recorded_kind(record: Mapping[str, Any], kind: str) -> str:
    """The kind of a phase of a recorded run, in which models may have been streamed."""
    rows = (record.get("statistics") or {}).get("memory") or []
    streamed = {row["model"] for row in rows if str(row.get("mode")).startswith("streamed")}
    return kind + STREAMED if STREAMED_IN.get(kind) in streamed else kind
