"""Copies from pinned host memory to a CUDA device, beside what the device computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Transfers:
    """A stream of its own, on which arrays are made for the stream that computes.

    Their memory belongs to this stream: `leave` keeps it from being taken while it is in use.
    """

    def __init__(self, device: str) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def buffer(self, size: int) -> np.ndarray:
        """Bytes that the device reads by itself: nobody waits for a copy from them."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

    def made(self, make: Callable[[], Any]) -> tuple[Any, Any]:
        """What `make` copies and computes on this stream, and the event of its completion."""
        with torch.cuda.stream(self._stream):
            return make(), self._stream.record_event()

    def arrive(self, event: Any) -> None:
        """What is computed from now on waits for `event`."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def leave(self) -> None:
        """What is made from now on waits for what has been computed so far."""
        self._stream.wait_event(torch.cuda.current_stream(self._device).record_event())

    def finish(self, event: Any) -> None:
        """Wait here for `event`: then the bytes it was made from may be written over."""
        event.synchronize()
