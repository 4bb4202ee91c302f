"""The latents after every sampling step, in a file per stage: what save_steps=true asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ltx2.media.atomic import check_writable, replacing

FOLDER = "latents"


class StepLatents:
    """Collects steps and writes `latents/<stage>.steps.safetensors` when a stage is over.

    Tensors `video.000`, `audio.000` ... hold the tokens (1, T, C) float32 after each step.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._stage: str | None = None
        self._tensors: dict[str, np.ndarray] = {}

    def add(self, record: dict[str, Any], values: dict[str, np.ndarray]) -> None:
        """A step: its line of steps.jsonl and the latents by stream."""
        if record["stage"] != self._stage:
            self.write()
            self._stage = record["stage"]
        # Counted here: a stage may walk its steps several times, once per window.
        number = len({name.rpartition(".")[2] for name in self._tensors})
        for stream, value in values.items():
            self._tensors[f"{stream}.{number:03d}"] = np.asarray(value, np.float32)

    def write(self) -> None:
        """Write the stage that is over."""
        if not self._tensors:
            return
        from safetensors.numpy import save

        path = check_writable(self._folder) / f"{self._stage}.steps.safetensors"
        with replacing(path) as temporary:
            temporary.write_bytes(save(self._tensors, {"format": "ltx2 steps 1"}))
        self._tensors = {}
