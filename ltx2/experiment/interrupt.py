"""Ctrl-C: the first ends the step that runs, the second ends everything."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

STDERR = 2
NOTICE = b"stopping after this step; Ctrl-C again stops at once\n"


class Interrupt:
    """Handles SIGINT while entered, in the main thread; what handled it before comes back after.

    Inside `deferred` the first signal sets `requested`; anywhere else, and from the second on, it
    raises KeyboardInterrupt. A process that ignores SIGINT, as background jobs do, goes on so.
    """

    def __init__(self) -> None:
        self.signals = 0
        self._deferring = False
        self._before: Any = None

    @property
    def requested(self) -> bool:
        return self.signals > 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What runs inside asks `requested` now and then."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        if not self._deferring or self.signals > 1:
            raise KeyboardInterrupt
        # Not through logging: the signal may have come in the middle of a log line.
        with contextlib.suppress(OSError):
            os.write(STDERR, NOTICE)
