"""State of a training run: safetensors files that are complete or absent, and exact resume."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ltx2.errors import UserError
from ltx2.media.atomic import replacing

FORMAT = "ltx2 training state 1"
LATEST = "state.safetensors"


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write one file, through a temporary name. `facts` is JSON data kept in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "facts": json.dumps(facts)}
    kept = {name: x.detach().contiguous().cpu() for name, x in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(kept, temporary, metadata)
        except SafetensorError as error:
            # Raised from Rust, which keeps the system's number in the text alone.
            if f"os error {errno.ENOSPC})" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
            raise


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote. Raises UserError for a file that is damaged or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a training run's {LATEST}") from None
    except Exception as error:  # safetensors raises its own exception class from Rust
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); it is damaged or cut off") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is no training state; give a training run's {LATEST}")
    return tensors, json.loads(metadata["facts"])


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """NumPy's generator and torch's own, as JSON data."""
    return {
        "numpy": rng.bit_generator.state,
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def restore_random_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    rng.bit_generator.state = state["numpy"]
    stored = np.frombuffer(bytes.fromhex(state["torch"]), np.uint8).copy()
    torch.set_rng_state(torch.from_numpy(stored))
