"""Real sweeps on the pocket model in processes of their own: killed, interrupted, on workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = ["-m", "pipeline=one_stage", "frames=9", "height=64", "width=64", "scheduler.steps=2",
        "guidance=none", "output.contact_sheet=false"]  # fmt: skip
# A process started in the background ignores SIGINT, and so would its children.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ltx2.cli import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


class Sweep:
    """A sweep over seeds below `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.outputs = folder / "outputs"
        script = folder / "program.py"
        script.write_text(PROGRAM)
        self._command = [sys.executable, str(script), *TINY, f"paths.outputs={self.outputs}"]
        self._command += arguments

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self._command, env=environment, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def finish(self) -> tuple[int, str]:
        process = self.start()
        _, err = process.communicate(timeout=300)
        return process.returncode, err

    @property
    def folder(self) -> Path:
        [folder] = (self.outputs / "sweeps").iterdir()
        return folder

    def finished(self) -> dict[str, float]:
        """Cells with a completed record, and when it was written."""
        paths = self.outputs.glob("sweeps/*/*/run.json")
        done = [path for path in paths if json.loads(path.read_text())["status"] == "completed"]
        return {path.parent.name: path.stat().st_mtime_ns for path in done}

    def wait(self, condition, process, seconds=240.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)

    def statuses(self) -> list[str]:
        summary = json.loads((self.folder / "summary.json").read_text())
        return [cell["status"] for cell in summary["cells"]]


def test_killing_a_sweep_loses_nothing_that_was_finished(tmp_path):
    sweep = Sweep(tmp_path, "seed=range(4)", "cache=off")
    process = sweep.start()
    sweep.wait(sweep.finished, process)
    process.kill()
    process.communicate()
    before = sweep.finished()
    assert 1 <= len(before) < 4
    assert json.loads((sweep.folder / "summary.json").read_text())["status"] == "running"
    code, err = sweep.finish()
    assert code == 0, err
    after = sweep.finished()
    assert len(after) == 4 and before.items() <= after.items()
    assert sweep.statuses().count("skipped") == len(before)
    for name in after:
        assert (sweep.folder / name / "video.mp4").stat().st_size > 1000


def test_ctrl_c_ends_the_running_step_and_the_sweep(tmp_path):
    sweep = Sweep(tmp_path, "seed=1,2", "scheduler.steps=400", "cache=off")
    sweep._command.remove("scheduler.steps=2")
    process = sweep.start()
    begun = "sweeps/*/*/steps.jsonl"
    sweep.wait(lambda: any(p.stat().st_size for p in sweep.outputs.glob(begun)), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert sweep.statuses() == ["interrupted", "pending"]
    record = json.loads((sweep.folder / "000-seed=1" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["steps"]


@pytest.mark.slow
def test_workers_make_what_this_process_makes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = Sweep(tmp_path / "a", "seed=1,2,3", "output=png", "cache=off")
    pool = Sweep(tmp_path / "b", "seed=1,2,3", "output=png", "cache=off",
                 "hydra/launcher=gpu_pool", "hydra.launcher.devices=[cpu,cpu]")  # fmt: skip
    for sweep in (here, pool):
        code, err = sweep.finish()
        assert code == 0, err
    pictures = sorted(path.relative_to(here.folder) for path in here.folder.rglob("*.png"))
    assert len(pictures) == 27
    for picture in pictures:
        assert (here.folder / picture).read_bytes() == (pool.folder / picture).read_bytes()
