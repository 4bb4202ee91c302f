"""One process per device that stays alive between cells, so that its model stays loaded.

A worker that dies is replaced and its cell tried once more. Workers live in a session of their
own, so that Ctrl-C reaches only this process, which passes it on; they end when the pipe to this
process closes, however it ended.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.experiment.sweep.execute import Events
from ltx2.experiment.sweep.plan import Cell
from ltx2.experiment.sweep.status import CellResult, clear

log = logging.getLogger(__name__)

RESPAWNS = 3
TRIES = 2
STOP = "stop"
GRACE_SECONDS = 10.0
# Runs one cell in the sweep's folder; it is imported by the worker.
RunCell = Callable[[Cell, Path], CellResult]


def pool_devices(devices: str | Sequence[Any], found: Callable[[], list[str]]) -> list[str]:
    """Device names: numbers of GPUs, or `cpu`; `auto` takes the GPUs that `found` lists."""
    if devices == "auto":
        names = found()
        if not names:
            raise UserError(
                "hydra.launcher.devices=auto finds no GPU; name them, as hydra.launcher.devices=[0]"
            )
        return names
    names = [devices] if isinstance(devices, str) else [str(item) for item in devices]
    for name in names:
        if name != "cpu" and not name.isdigit():
            raise UserError(
                f"hydra.launcher.devices: {name} is no device; use numbers of GPUs, cpu, or auto"
            )
    if not names:
        raise UserError("hydra.launcher.devices is empty; use [0], [cpu] or auto")
    return names


@dataclass
class _Worker:
    """A device's process, and what it is doing."""

    device: str
    process: Any = None
    pipe: Connection | None = None
    cell: Cell | None = None
    respawns: int = 0

    @property
    def alive(self) -> bool:
        return self.pipe is not None


@dataclass
class Pool:
    """Runs cells on `devices`, each by a process that calls `run`."""

    devices: Sequence[str]
    run_cell: RunCell
    _tries: dict[int, int] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)

    @property
    def workers(self) -> int:
        return len(self.devices)

    def run(self, cells: Sequence[Cell], folder: Path, events: Events) -> None:
        """Run `cells`; the processes end with the last of them."""
        waiting = deque(cells)
        self._workers = [_Worker(device) for device in self.devices[: len(cells)]]
        try:
            for worker in self._workers:
                self._spawn(worker, folder)
            self._serve(waiting, folder, events)
        except KeyboardInterrupt:
            self._interrupt(events)
            raise
        finally:
            self._close()

    def _serve(self, waiting: deque[Cell], folder: Path, events: Events) -> None:
        goes_on = True
        while True:
            for worker in self._workers:
                if goes_on and waiting and worker.alive and worker.cell is None:
                    self._hand_out(worker, waiting.popleft(), events)
            busy = [worker for worker in self._workers if worker.cell is not None]
            if not busy:
                break
            for worker, result in self._results(busy):
                cell, worker.cell = worker.cell, None
                assert cell is not None
                if result is None:
                    result = self._lost(worker, cell, waiting, folder)
                goes_on = events.ended(result) and goes_on
        for cell in waiting if goes_on else ():
            events.ended(CellResult(cell.index, "lost", error="every worker has died"))

    def _hand_out(self, worker: _Worker, cell: Cell, events: Events) -> None:
        worker.cell = cell
        self._tries[cell.index] = self._tries.get(cell.index, 0) + 1
        events.began(cell)
        assert worker.pipe is not None
        # One that died while it was idle: its closed pipe tells so when results are read.
        with contextlib.suppress(OSError):
            worker.pipe.send(cell)

    def _results(self, busy: list[_Worker]) -> Iterator[tuple[_Worker, CellResult | None]]:
        """Results that are there, at least one; None from a worker that has died."""
        pipes = {worker.pipe: worker for worker in busy}
        for pipe in wait([pipe for pipe in pipes if pipe is not None]):
            assert isinstance(pipe, Connection)
            try:
                yield pipes[pipe], pipe.recv()
            except (EOFError, OSError):
                yield pipes[pipe], None

    def _lost(self, worker: _Worker, cell: Cell, waiting: deque[Cell], folder: Path) -> CellResult:
        """Replace a dead worker, and put its cell back if it was tried only once."""
        assert worker.process is not None
        worker.process.join()
        error = f"its worker on {worker.device} died ({_cause(worker.process.exitcode)})"
        worker.pipe = None
        if worker.respawns < RESPAWNS:
            worker.respawns += 1
            self._spawn(worker, folder)
        again = self._tries[cell.index] < TRIES and any(other.alive for other in self._workers)
        log.warning("%s: %s%s", cell.folder, error, "; it is tried once more" if again else "")
        if again:
            clear(folder / cell.folder)
            waiting.append(cell)
        return CellResult(cell.index, "pending" if again else "lost", error=error)

    def _spawn(self, worker: _Worker, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        worker.pipe, theirs = context.Pipe()
        arguments = (worker.device, theirs, self.run_cell, folder)
        worker.process = context.Process(target=work, args=arguments, daemon=True)
        with _ignoring_sigint():
            worker.process.start()
        theirs.close()

    def _interrupt(self, events: Events) -> None:
        """Let the running steps end; a second Ctrl-C ends everything."""
        sys.stderr.write("stopping after this step; Ctrl-C again stops at once\n")
        try:
            busy = [worker for worker in self._workers if worker.cell is not None]
            for worker in busy:
                assert worker.pipe is not None
                with contextlib.suppress(OSError):
                    worker.pipe.send(STOP)
            while busy:
                for worker, result in self._results(busy):
                    if result is not None:
                        events.ended(result)
                    busy.remove(worker)
                    worker.cell = None
        except KeyboardInterrupt:
            return

    def _close(self) -> None:
        """End idle workers in order, so that what they hand in at their exit arrives."""
        for worker in self._workers:
            if worker.pipe is not None and worker.cell is None:
                with contextlib.suppress(OSError):
                    worker.pipe.send(None)
        for worker in self._workers:
            if worker.process is None:
                continue
            worker.process.join(0 if worker.cell is not None else GRACE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.pipe is not None:
                worker.pipe.close()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode}"
    return f"exit code {exitcode}"


@contextmanager
def _ignoring_sigint() -> Iterator[None]:
    """A process started inside is not killed by Ctrl-C before it has its own session."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def work(device: str, pipe: Connection, run: RunCell, folder: Path) -> None:
    """The main function of a worker: runs the cells that come through `pipe` until it closes."""
    if hasattr(os, "setsid"):
        os.setsid()
    # Read when torch or CUDA is loaded, which happens with the first cell.
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, handlers=[_warnings()], force=True)
    inbox: queue.SimpleQueue[Cell | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    try:
        while True:
            cell = inbox.get()
            if cell is None:
                return
            try:
                result = run(cell, folder)
            except KeyboardInterrupt:
                result = CellResult(cell.index, "interrupted")
            pipe.send(result)
    except (KeyboardInterrupt, OSError):
        return


def _warnings() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    return handler


def _listen(pipe: Connection, inbox: queue.SimpleQueue[Cell | None]) -> None:
    """Take cells and the wish to stop from the pipe; end the process when it closes."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        if message == STOP:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
        else:
            inbox.put(message)
