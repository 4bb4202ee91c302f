"""Trackers side by side: what each is told, and that none of them can hurt a run."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from tracked_run import CURVE, STEPS, config, follow, info, write_run, write_sweep

from ltx2.experiment import index
from ltx2.experiment.trackers import fanout
from ltx2.experiment.trackers.base import run_name, shareable
from ltx2.experiment.trackers.fanout import Trackers
from ltx2.experiment.trackers.local import LocalTracker
from ltx2.experiment.trackers.results import curves, sweep_cells, sweep_table


class Notes:
    """A tracker that writes down what it is told, and raises at one method if asked to."""

    def __init__(self, fails_at: str = "", gate: threading.Event | None = None):
        self.told, self.fails_at, self.gate = [], fails_at, gate
        self.threads = set()

    def _note(self, name, *arguments):
        if self.gate is not None:
            assert self.gate.wait(30)
        self.threads.add(threading.current_thread())
        self.told.append((name, *arguments))
        if name == self.fails_at:
            raise RuntimeError("the service\nis gone")

    def start(self, run, config):
        self._note("start", run, config)

    def step(self, record):
        self._note("step", record)

    def finish(self, record):
        self._note("finish", record)

    def finish_sweep(self, folder, summary):
        self._note("finish_sweep", folder, summary)


@pytest.fixture(autouse=True)
def first_warnings(monkeypatch):
    """As in a new process, where nothing was warned about yet."""
    monkeypatch.setattr(fanout, "_warnings", set())


def names(tracker):
    return [call[0] for call in tracker.told]


def settled(trackers):
    assert all(lane.wait(30) for lane in trackers._lanes.values())


def test_every_tracker_is_told_everything_in_order(tmp_path):
    one, two = Notes(), Notes()
    trackers = Trackers({"one": one, "two": two})
    follow(trackers, tmp_path, config(tmp_path), {"status": "completed"})
    trackers.finish_sweep(tmp_path, {"sweep": "s"})
    settled(trackers)
    assert names(one) == ["start", "step", "step", "step", "finish", "finish_sweep"]
    assert one.told == two.told
    assert [call[1] for call in one.told[1:4]] == STEPS
    assert threading.current_thread() not in one.threads | two.threads
    assert not one.threads & two.threads


@pytest.mark.parametrize("method", ["start", "step", "finish", "finish_sweep"])
def test_tracker_that_raises_is_off_with_one_warning(tmp_path, caplog, method):
    bad, good = Notes(method), Notes()
    trackers = Trackers({"bad": bad, "good": good})
    for _ in range(2):
        follow(trackers, tmp_path, config(tmp_path), {"status": "completed"})
    trackers.finish_sweep(tmp_path, {"sweep": "s"})
    settled(trackers)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["logger bad is off from here: RuntimeError: the service is gone"]
    assert names(bad).count(method) == 1
    assert names(bad)[-1] == method
    assert len(good.told) == 11


def test_logger_that_fails_in_every_run_of_a_sweep_is_warned_about_once(tmp_path, caplog):
    for _ in range(3):
        trackers = Trackers({"bad": Notes("start")})
        follow(trackers, tmp_path, config(tmp_path), {"status": "completed"})
        settled(trackers)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_loggers_of_one_name_follow_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fanout, "FINISH_SECONDS", 0.0)
    gate, told = threading.Event(), []
    first, second = Notes(gate=gate), Notes()
    first.told = second.told = told
    several = [Trackers({"one": tracker}) for tracker in (first, second)]
    for trackers, run in zip(several, ("a", "b"), strict=True):
        follow(trackers, tmp_path, config(tmp_path), {"status": run})
    gate.set()
    for trackers in several:
        settled(trackers)
    assert [call[0] for call in told] == ["start", "step", "step", "step", "finish"] * 2


def test_slow_tracker_holds_a_run_back_no_longer_than_agreed(tmp_path, monkeypatch):
    monkeypatch.setattr(fanout, "FINISH_SECONDS", 0.05)
    gate = threading.Event()
    slow = Notes(gate=gate)
    trackers = Trackers({"slow": slow})
    began = time.monotonic()
    follow(trackers, tmp_path, config(tmp_path), {"status": "completed"})
    assert time.monotonic() - began < 5
    assert slow.told == []
    gate.set()
    settled(trackers)
    assert names(slow) == ["start", "step", "step", "step", "finish"]


def test_threads_end_with_the_run(tmp_path):
    before = set(threading.enumerate())
    trackers = Trackers({"one": Notes()})
    for _ in range(3):
        follow(trackers, tmp_path, config(tmp_path), {"status": "completed"})
    settled(trackers)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_private_run_tells_others_no_prompt_and_no_error_text(tmp_path):
    notes = Notes()
    trackers = Trackers({"notes": notes})
    record = write_run(tmp_path / "run", "failed", error="/secret/file", command=["prompt=secret"])
    values = {"prompt": "secret", "lora.user.file": "x", "seed": 1}
    follow(trackers, tmp_path / "run", config(tmp_path, private=True), record, values=values)
    settled(trackers)
    assert notes.told[0][1].values == {"seed": 1}
    assert notes.told[-1][1]["metrics"] == {"brightness": 0.5, "psnr": None}
    assert "secret" not in json.dumps(notes.told[-1][1])


def test_shareable_drops_texts_and_places_only(tmp_path):
    kept = shareable(config(tmp_path))
    assert "secret" not in json.dumps(kept)
    assert kept["guidance"] == {"video": {"cfg": 3.0}}
    assert kept["lora"] == {"user": {"strength": 0.5}}
    assert kept["model"] == {"name": "pocket"}
    assert "paths" not in kept
    assert shareable({"input.video": "a.mp4", "guidance.video.cfg": 2}) == {"guidance.video.cfg": 2}


def test_local_tracker_writes_each_step_at_once(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.start(info(tmp_path), config(tmp_path))
    for number, step in enumerate(STEPS):
        tracker.step(step | {"video_std": float("nan")})
        lines = (tmp_path / "steps.jsonl").read_text().splitlines()
        assert len(lines) == number + 1
        assert json.loads(lines[-1]) == step | {"video_std": None}
    tracker.finish({"status": "completed"})


def test_local_tracker_replaces_the_steps_of_an_earlier_attempt(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.start(info(tmp_path), config(tmp_path))
    tracker.step(STEPS[0])
    tracker.finish({"status": "failed"})
    tracker.start(info(tmp_path), config(tmp_path))
    tracker.finish({"status": "completed"})
    assert not (tmp_path / "steps.jsonl").exists()


def test_local_tracker_notes_start_and_end_in_the_index(tmp_path):
    trackers = Trackers({"local": LocalTracker(tmp_path)})
    folder = tmp_path / "2026-11-20" / "a"
    record = write_run(folder)
    trackers.start(info(folder), config(tmp_path))
    assert [(r.status, r.folder) for r in index.query(tmp_path)] == [("running", "2026-11-20/a")]
    trackers.finish(record)
    (row,) = index.query(tmp_path)
    assert (row.status, row.seconds, row.metrics) == ("completed", 1.5, record["metrics"])


def test_full_disk_cuts_the_steps_short_with_one_warning(tmp_path, caplog):
    trackers = Trackers({"local": LocalTracker(tmp_path)})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "steps.jsonl").symlink_to("/dev/full")
    follow(trackers, folder, config(tmp_path), {"status": "completed"})
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f"{folder / 'steps.jsonl'} is cut short: No space left on device"]
    assert [r.status for r in index.query(tmp_path)] == ["completed"]


@pytest.mark.parametrize(
    ("changes", "values", "name"),
    [
        ({}, {}, "a-secret-circle-moves-seed3"),
        ({}, {"seed": "1", "guidance.video.cfg": "3"}, "seed=1, video.cfg=3"),
        ({"prompt": "¿"}, {}, "two_stage-seed3"),
        ({"prompt": "x" * 90}, {}, "x" * 44 + "-seed3"),
        ({}, {"prompt": "y" * 90}, "prompt=" + "y" * 52 + "…"),
        ({"output": {"private": True}}, {}, "two_stage-seed3"),
        ({"output": {"private": True}}, {"prompt": "z", "seed": 2}, "seed=2"),
    ],
)
def test_run_name(tmp_path, changes, values, name):
    assert run_name(config(tmp_path) | changes, values) == name


def test_sweep_table_keeps_one_type_per_column(tmp_path):
    folder, summary = write_sweep(tmp_path)
    for cell, extra in zip(summary["cells"], ({"a": "1", "b": "0.5"}, {"b": "x"}), strict=True):
        cell["values"] |= extra
    columns, rows = sweep_table(sweep_cells(folder, summary))
    assert columns == ["cell", "seed", "a", "b", "status", "seconds", "brightness"]
    assert rows == [
        [0, 0, 1, "0.5", "completed", 1.5, 0.25],
        [1, 1, None, "x", "failed", 1.5, 1.25],
    ]


def test_cell_without_a_record_is_a_row_without_metrics(tmp_path):
    folder, summary = write_sweep(tmp_path)
    (folder / summary["cells"][1]["folder"] / "run.json").unlink()
    assert sweep_table(sweep_cells(folder, summary))[1][1] == [1, 1, "failed", 1.5, None]


def test_curves_are_read_from_the_metrics_of_the_run(tmp_path):
    write_run(tmp_path / "run")
    assert curves(tmp_path / "run") == [CURVE]
    assert curves(tmp_path) == []
