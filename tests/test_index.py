"""outputs/index.sqlite: right rows, safe among processes, and never in the way of a run."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tracked_run import config, info, write_run, write_sweep

from ltx2.experiment import index
from ltx2.experiment.index import Row, begun, ended, query, rebuild, timings, write


def row(outputs, name="a", **changes):
    """A finished run in `outputs`/`name`, without files."""
    made = begun(outputs, info(outputs / name), config(outputs))
    record = {"status": "completed", "phases": [{"phase": "base", "seconds": 2.0}]}
    return replace(ended(made, record), **changes)


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_row_says_what_the_run_was_and_did(tmp_path):
    folder = tmp_path / "2026-11-20" / "run"
    record = write_run(folder)
    write(tmp_path, ended(begun(tmp_path, info(folder), config(tmp_path)), record))
    assert query(tmp_path) == [
        Row(folder="2026-11-20/run", run="0123456789ab", cell="c" * 12, sweep=None, name="circle",
            status="completed", started="2026-11-20T12:00:00Z", finished="2026-11-20T12:00:02Z",
            seconds=1.5, model="pocket", pipeline="two_stage", prompt="a secret circle moves",
            seed=3, size="64x64x9", device="torch cpu", metrics={"brightness": 0.5, "psnr": None},
            values={"seed": 3}, phases={"base": 1.25}, error=None)
    ]  # fmt: skip


def test_repeated_run_in_one_folder_is_one_row(tmp_path):
    write(tmp_path, row(tmp_path, status="failed", error="x"))
    write(tmp_path, row(tmp_path))
    assert [(r.status, r.error) for r in query(tmp_path)] == [("completed", None)]


def test_query_takes_a_condition_and_gives_the_newest_first(tmp_path):
    rows = [row(tmp_path, f"r{n}", started=f"2026-11-2{n}", seed=n) for n in range(3)]
    write(tmp_path, *rows)
    assert [r.seed for r in query(tmp_path, "seed > ?", 0)] == [2, 1]
    hostile = "'; DROP TABLE runs; --"
    assert query(tmp_path, "prompt = ?", hostile) == []
    assert len(query(tmp_path)) == 3
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        query(tmp_path, "sede = 1")


def test_private_run_leaves_no_prompt(tmp_path):
    made = begun(tmp_path, info(tmp_path / "a", values={"prompt": "secret", "seed": 1}),
                 config(tmp_path, private=True))  # fmt: skip
    assert (made.prompt, made.values) == (None, {"seed": 1})


def test_timings_are_medians_over_completed_runs_of_the_same_kind(tmp_path):
    seconds = [1.0, 2.0, 9.0]
    rows = [row(tmp_path, f"r{n}", phases={"base": s}) for n, s in enumerate(seconds)]
    other = row(tmp_path, "other", phases={"base": 50.0}, model="dev")
    failed = row(tmp_path, "failed", phases={"base": 60.0}, status="failed")
    write(tmp_path, *rows, other, failed)
    assert timings(tmp_path, model="pocket") == {"base": 2.0}
    assert timings(tmp_path, model="dev") == {"base": 50.0}
    assert timings(tmp_path, model="dev", size="1x1x1") == {}


def test_missing_index_is_made_from_the_folders(tmp_path):
    write_run(tmp_path / "2026-11-20" / "run", started="2026-11-20T00:00:01Z")
    folder, _ = write_sweep(tmp_path)
    (tmp_path / "cache").mkdir()
    shutil.copytree(folder / "000-seed=0", tmp_path / "cache" / "copy")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    found = {r.folder: r.values for r in query(tmp_path)}
    assert found == {
        "2026-11-20/run": {},
        "sweeps/seeds-12345678/000-seed=0": {"seed": "0"},
        "sweeps/seeds-12345678/001-seed=1": {"seed": "1"},
    }


def test_rebuilding_drops_runs_that_are_gone_and_keeps_those_that_run(tmp_path):
    write_run(tmp_path / "kept")
    (tmp_path / "live").mkdir()
    running = begun(tmp_path, info(tmp_path / "live"), config(tmp_path))
    gone = begun(tmp_path, info(tmp_path / "gone"), config(tmp_path))
    write(tmp_path, row(tmp_path, "removed"), running, gone)
    assert rebuild(tmp_path) == 1
    assert {r.folder: r.status for r in query(tmp_path)} == {
        "kept": "completed", "live": "running"}  # fmt: skip


@pytest.mark.parametrize("spoil", ["text", "zeros", "version"])
def test_spoilt_index_is_put_aside_and_made_anew(tmp_path, caplog, spoil):
    write_run(tmp_path / "run")
    path = tmp_path / index.NAME
    if spoil == "text":
        path.write_text("not a database, certainly not" * 100)
    else:
        write(tmp_path, *(row(tmp_path, f"r{n}") for n in range(300)))
    if spoil == "zeros":
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes(len(data) - 100))
    if spoil == "version":
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    assert write(tmp_path, row(tmp_path, "new"))
    assert {r.folder for r in query(tmp_path)} == {"run", "new"}
    (warning,) = messages(caplog)
    assert "made anew from the runs" in warning
    assert len(list(tmp_path.glob("index.sqlite.corrupt-*[0-9]"))) == 1


def test_locked_index_warns_once_and_fails_nothing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(index, "BUSY_SECONDS", 0.05)
    write(tmp_path, row(tmp_path))
    with closing(sqlite3.connect(tmp_path / index.NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert not write(tmp_path, row(tmp_path, "b"))
        assert not write(tmp_path, row(tmp_path, "c"))
        other.execute("ROLLBACK")
    (warning,) = messages(caplog)
    assert warning.endswith("cannot be used, runs go on without it: database is locked")
    assert write(tmp_path, row(tmp_path, "d"))


def test_index_that_cannot_be_opened_warns_once_and_fails_nothing(tmp_path, caplog):
    (tmp_path / index.NAME).mkdir()
    assert not write(tmp_path, row(tmp_path))
    assert query(tmp_path) == []
    assert len(messages(caplog)) == 1


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_index import row
from ltx2.experiment.index import write
outputs, name = Path(sys.argv[1]), sys.argv[2]
assert all(write(outputs, row(outputs, f"{name}-{n}")) for n in range(25))
"""


def test_many_processes_lose_no_row(tmp_path):
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    started = [subprocess.Popen([*command, f"p{n}", *folders]) for n in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    assert len(query(tmp_path)) == 100


def test_run_elsewhere_is_kept_with_its_whole_path(tmp_path):
    outputs, folder = tmp_path / "outputs", tmp_path / "elsewhere" / "run"
    outputs.mkdir()
    write(outputs, begun(outputs, info(folder), config(outputs)))
    assert query(outputs)[0].folder == folder.as_posix()


def test_network_disks_are_told_by_their_mount(tmp_path):
    assert not index._on_network_disk(tmp_path / index.NAME)
    mounts = "server:/x /data nfs4 rw 0 0\n/dev/sda /data/local ext4 rw 0 0\n/dev/sdb / ext4 rw 0 0"
    assert index._disk_kind("/data/outputs", mounts) == "nfs4"
    assert index._disk_kind("/data/local/outputs", mounts) == "ext4"
    assert index._disk_kind("/database", mounts) == "ext4"
