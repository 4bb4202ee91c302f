"""A process per device: devices, deaths, the wish to stop, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ltx2.errors import UserError
from ltx2.experiment.sweep.plan import Cell
from ltx2.experiment.sweep.pool import RESPAWNS, Pool, pool_devices
from ltx2.experiment.sweep.status import CellResult

_kept: list[int] = []  # of a worker: stays between its cells


def run_cell(cell: Cell, folder: Path) -> CellResult:
    """What the cell's first override says, in a worker."""
    _kept.append(cell.index)
    (folder / f"{cell.index}.{len(list(folder.glob(f'{cell.index}.*')))}").write_text(
        json.dumps([os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], _kept])
    )
    action = cell.overrides[0]
    if action == "die" or (action == "die once" and not (folder / f"{cell.index}.1").exists()):
        os.kill(os.getpid(), signal.SIGKILL)
    while action == "wait" and not (folder / "go").exists():
        time.sleep(0.01)
    if action == "fail":
        return CellResult(cell.index, "failed", error="it fails")
    return CellResult(cell.index, "completed")


class Events:
    """Notes what it is told; wants no more after `limit` results."""

    def __init__(self, limit: int = 1000) -> None:
        self.results: list[CellResult] = []
        self._limit = limit

    def began(self, cell: Cell) -> None:
        pass

    def ended(self, result: CellResult) -> bool:
        self.results.append(result)
        return len(self.results) < self._limit

    def last(self) -> dict[int, str]:
        return {result.index: result.status for result in self.results}


def cells(*actions: str) -> list[Cell]:
    return [Cell(i, str(i), f"cell{i}", (action,)) for i, action in enumerate(actions)]


def told(folder: Path, name: str) -> tuple[int, str, list[int]]:
    return json.loads((folder / name).read_text())


def test_a_worker_stays_between_its_cells_and_sees_only_its_device(tmp_path):
    events = Events()
    Pool(["3", "cpu"], run_cell).run(cells("ok", "ok", "fail", "ok", "ok"), tmp_path, events)
    assert events.last() == {0: "completed", 1: "completed", 2: "failed", 3: "completed",
                             4: "completed"}  # fmt: skip
    notes = [told(tmp_path, f"{i}.0") for i in range(5)]
    by_worker = {
        pid: (device, kept) for pid, device, kept in sorted(notes, key=lambda n: len(n[2]))
    }
    assert {device for device, _ in by_worker.values()} <= {"3", ""} and len(by_worker) <= 2
    assert sum(len(kept) for _, kept in by_worker.values()) == 5


def test_a_cell_whose_worker_dies_is_tried_once_more_and_the_others_go_on(tmp_path, caplog):
    events = Events()
    work = cells("ok", "die once", "die", "ok", "ok")
    Pool(["cpu"], run_cell).run(work, tmp_path, events)
    assert events.last() == {0: "completed", 1: "completed", 2: "lost", 3: "completed",
                             4: "completed"}  # fmt: skip
    assert len(list(tmp_path.glob("2.*"))) == 2
    error = next(r.error for r in events.results if r.status == "lost")
    assert error == "its worker on cpu died (signal 9)"
    assert "cell1: its worker on cpu died (signal 9); it is tried once more" in caplog.text


def test_a_device_on_which_every_worker_dies_is_given_up(tmp_path):
    events = Events()
    Pool(["cpu"], run_cell).run(cells(*["die"] * 6), tmp_path, events)
    assert events.last() == dict.fromkeys(range(6), "lost")
    assert len(list(tmp_path.glob("*.*"))) == RESPAWNS + 1


def test_no_more_cells_begin_when_enough_have_failed(tmp_path):
    events = Events(limit=2)
    Pool(["cpu"], run_cell).run(cells("fail", "fail", "ok", "ok"), tmp_path, events)
    assert events.last() == {0: "failed", 1: "failed"}


def test_ctrl_c_is_passed_on_to_the_workers(tmp_path):
    events = Events()

    def press() -> None:
        while len(list(tmp_path.glob("*.0"))) < 2:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Pool(["cpu", "cpu"], run_cell).run(cells("wait", "wait", "ok"), tmp_path, events)
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    assert events.last() == {0: "interrupted", 1: "interrupted"}
    assert not alive({told(tmp_path, f"{i}.0")[0] for i in range(2)})


PARENT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_sweep_pool as t
if __name__ == "__main__":
    t.Pool(["cpu", "cpu"], t.run_cell).run(t.cells("wait", "wait"), Path({folder!r}), t.Events())
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(path=sys.path, folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        until(lambda: len(list(tmp_path.glob("*.0"))) == 2)
        until(lambda: all(path.stat().st_size for path in tmp_path.glob("*.0")))
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive({told(tmp_path, f"{i}.0")[0] for i in range(2)}))


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pids: set[int]) -> set[int]:
    """Those that run; one that is dead and not yet waited for does not count."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def test_devices_are_numbers_cpu_or_what_is_found():
    assert pool_devices("auto", lambda: ["0", "1"]) == ["0", "1"]
    assert pool_devices([0, "cpu"], list) == ["0", "cpu"]
    assert pool_devices("cpu", list) == ["cpu"]
    with pytest.raises(UserError, match="auto finds no GPU"):
        pool_devices("auto", list)
    with pytest.raises(UserError, match="cuda:0 is no device"):
        pool_devices(["cuda:0"], list)
    with pytest.raises(UserError, match="is empty"):
        pool_devices([], list)
