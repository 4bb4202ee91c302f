"""What makes two runs the same one, and what a run knows about the sweep it belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

# Where a run is written and how it is watched; its result does not depend on these.
VOLATILE = frozenset(
    {"paths", "cache", "logger", "sweep", "plan", "debug", "keep_loaded", "preview", "hydra"}
    | {"download", "debug_dtypes", "evaluate"}
)


@dataclass(frozen=True)
class Job:
    """How a run was asked for: its overrides, and its sweep with the swept values, if any."""

    overrides: tuple[str, ...] = ()
    sweep: str | None = None
    values: dict[str, str] = field(default_factory=dict)


def cell_id(settings: Any) -> str:
    """12 hex digits that differ when anything differs that could change the result.

    `settings` is a dataclass, composed but with the preset's values not filled in.
    """
    plain = {
        key: value for key, value in dataclasses.asdict(settings).items() if key not in VOLATILE
    }
    text = json.dumps(_named(plain), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _named(value: Any) -> Any:
    """Keys as texts: a schedule's are numbers, and JSON would refuse to sort mixed ones."""
    if isinstance(value, dict):
        return {str(key): _named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(item) for item in value]
    return value
