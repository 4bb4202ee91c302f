"""Trackers side by side: each on a thread of its own, so that none slows or fails a run."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltx2.experiment.trackers.base import RunInfo, Tracker, is_private, shareable
from ltx2.experiment.trackers.local import LocalTracker

log = logging.getLogger(__name__)

FINISH_SECONDS = 0.25
EXIT_SECONDS = 120.0
# Loggers are made anew for each run of a sweep: one at a time works, and repeats are not warnings.
_turns: dict[str, threading.Lock] = {}
_warnings: set[str] = set()
_KEPT_PRIVATE = ("status", "metrics", "files", "seconds", "seed", "size", "frames", "fps", "stages")


class Trackers:
    """Passes every call on to all trackers.

    One that raises is warned about once and not called again. LocalTracker is called directly,
    all others in the background: `finish` waits for them at most `FINISH_SECONDS`, the end of
    the process at most `EXIT_SECONDS`. Of a private run's record the others learn numbers only,
    and of its config what `base.shown` leaves.
    """

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        self._lanes = {
            name: (Lane if isinstance(tracker, LocalTracker) else Background)(name, tracker)
            for name, tracker in trackers.items()
        }
        self._private = False

    def start(self, run: RunInfo, config: dict[str, Any]) -> None:
        """A run begins."""
        self._private = is_private(config)
        shown = replace(run, values=shareable(run.values)) if self._private else run
        for lane in self._lanes.values():
            lane.call("start", shown if isinstance(lane, Background) else run, config)

    def step(self, record: dict[str, Any]) -> None:
        """A line of steps.jsonl."""
        for lane in self._lanes.values():
            lane.call("step", record)

    def finish(self, record: dict[str, Any]) -> None:
        """The run is over; `record` is the content of run.json."""
        shown = record
        if self._private:
            shown = {key: record[key] for key in _KEPT_PRIVATE if key in record}
        for lane in self._lanes.values():
            lane.call("finish", shown if isinstance(lane, Background) else record)
        self._wait()

    def finish_sweep(self, folder: Path, summary: dict[str, Any]) -> None:
        """The sweep in `folder` is over."""
        for lane in self._lanes.values():
            lane.call("finish_sweep", folder, summary)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + FINISH_SECONDS
        for lane in self._lanes.values():
            if not lane.wait(max(0.0, deadline - time.monotonic())):
                log.info("%s goes on in the background", lane.name)


class Lane:
    """Calls one tracker until it raises."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name = name
        self._tracker: Tracker | None = tracker

    def call(self, method: str, *arguments: Any) -> None:
        """Call `method` of the tracker."""
        self._run(method, *arguments)

    def wait(self, seconds: float) -> bool:
        """Whether all calls are done, waiting at most `seconds`."""
        return True

    def _run(self, method: str, *arguments: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except (Exception, SystemExit) as error:
            self._tracker = None
            text = " ".join(str(error).split()) or "no message"
            line = f"logger {self.name} is off from here: {type(error).__name__}: {text}"
            log.log(logging.INFO if line in _warnings else logging.WARNING, "%s", line)
            _warnings.add(line)


class Background(Lane):
    """Calls one tracker in the order given, on a thread that lives while there is work."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        super().__init__(name, tracker)
        self._calls: deque[tuple[Any, ...]] = deque()
        self._changed = threading.Condition()
        self._in_run = False
        self._idle = threading.Event()
        self._idle.set()

    def call(self, method: str, *arguments: Any) -> None:
        """Have `method` called soon."""
        with self._changed:
            self._calls.append((method, *arguments))
            self._in_run = method in ("start", "step")
            if self._idle.is_set():
                self._idle.clear()
                # A daemon can be left behind at exit; the keeper gives it time to end by itself.
                threading.Thread(target=self._work, name=f"ltx2-{self.name}", daemon=True).start()
                threading.Thread(target=self._keep, name=f"ltx2-{self.name}-keeper").start()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether all calls are done, waiting at most `seconds`."""
        return self._idle.wait(seconds)

    def _work(self) -> None:
        with _turns.setdefault(self.name, threading.Lock()):
            self._serve()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or not self._in_run or _exiting())
                if not self._calls:
                    self._idle.set()
                    return
                call = self._calls.popleft()
            self._run(*call)

    def _keep(self) -> None:
        """Hold the end of the process back until the work is done, within `EXIT_SECONDS`."""
        while not self._idle.wait(0.2) and not _exiting():
            pass
        with self._changed:
            self._changed.notify_all()
        if self._idle.wait(1.0):
            return
        log.warning("waiting at most %.0f s for logger %s to finish", EXIT_SECONDS, self.name)
        self._idle.wait(EXIT_SECONDS)


def _exiting() -> bool:
    return not threading.main_thread().is_alive()
