"""The transformer kept between the runs of one process, for sweeps and prompt files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx2.models.transformer import Transformer
from ltx2.nn.lora import FusedLinear
from ltx2.nn.module import slots
from ltx2.weights.header import Header


@dataclass
class Resident:
    """Holds at most one transformer; another file, dtype or device lets go of it."""

    key: tuple[Any, ...] | None = None
    transformer: Transformer | None = None

    def find(self, key: tuple[Any, ...]) -> Transformer | None:
        """The transformer kept under `key`; any other one is let go of before it is replaced."""
        if self.key != key:
            self.key = self.transformer = None
        return self.transformer

    def keep(self, key: tuple[Any, ...], transformer: Transformer) -> None:
        """Keep `transformer`, unless LoRAs were fused into it: they cannot be taken out again."""
        if not any(isinstance(slot.value, FusedLinear) for slot in slots(transformer)):
            self.key, self.transformer = key, transformer


def transformer_key(
    header: Header, backend: Any, dtype: str, streams: tuple[str, ...]
) -> tuple[Any, ...]:
    """What a loaded transformer depends on."""
    changed = header.path.stat().st_mtime_ns
    return (
        str(header.path),
        header.file_size,
        changed,
        backend.describe()["device"],
        dtype,
        streams,
    )
