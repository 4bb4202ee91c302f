"""What W&B is sent, read back from its offline file; and what happens without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from tracked_process import followed

from ltx2.app.build import build
from ltx2.errors import UserError

BLOCK, HEADER = 32768, 7
TARGET = "ltx2.experiment.trackers.wandb.WandbTracker"


def records(path: Path) -> list:
    """The protobuf records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, parts, at = path.read_bytes(), [], b"", HEADER
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little of the block is left for a header
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def table(items) -> dict:
    """The values of items, whose keys may lead into inner tables."""
    found: dict = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


class Offline:
    """An offline run folder."""

    def __init__(self, folder: Path):
        (file,) = folder.glob("*.wandb")
        self.folder, self.records = folder, records(file)
        self.run = next(r.run for r in self.records if r.WhichOneof("record_type") == "run")
        self.config = table(self.run.config.update)
        self.summary, self.history, self.axes = {}, [], {}
        for record in self.records:
            if record.WhichOneof("record_type") == "history":
                self.history.append(table(record.history.item))
            self.summary |= table(record.summary.update)
            if record.WhichOneof("record_type") == "metric" and record.metric.step_metric:
                self.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric

    def file(self, value: dict) -> Path:
        return self.folder / "files" / value["path"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The facts of a followed run and sweep, and their offline runs."""
    outputs = tmp_path_factory.mktemp("wandb") / "outputs"
    facts = followed(outputs, "wandb", "sweep", tags=["mine"])
    folders = sorted((outputs / "wandb").glob("offline-run-*"))
    runs = {run.run.run_id: run for run in map(Offline, folders)}
    return facts, runs


@pytest.fixture
def run(offline):
    return offline[1]["0123456789ab"]


def test_without_a_key_the_run_is_written_offline_in_silence(offline):
    facts, runs = offline
    assert (facts["warnings"], facts["output"]) == ([], "")
    assert set(runs) == {"0123456789ab", "seeds-12345678"}


def test_run_has_name_tags_job_type_and_config(run):
    assert (run.run.display_name, run.run.job_type, run.run.project) == (
        "circle", "generate", "ltx2")  # fmt: skip
    assert sorted(run.run.tags) == ["mine", "pocket"]
    assert run.config["prompt"] == "a secret circle moves"
    assert run.config["guidance"] == {"video": {"cfg": 3.0}}


def test_each_stage_has_curves_over_its_own_steps(run):
    assert run.axes == {"base/*": "base/step", "refine/*": "refine/step"}
    points = [(h["base/step"], h["base/sigma"]) for h in run.history if "base/sigma" in h]
    assert points == [(0, 1.0), (1, 0.5)]
    assert [h["refine/video_std"] for h in run.history if "refine/step" in h] == [0.7]


def test_summary_has_metrics_and_status(run):
    assert run.summary["brightness"] == 0.5
    assert (run.summary["status"], run.summary["seconds"]) == ("completed", 1.5)
    assert "psnr" not in run.summary


def test_media_are_the_files_of_the_run(run, offline):
    (media,) = [h for h in run.history if "video" in h]
    clip = run.file(media["video"])
    source = run.folder.parents[1] / "2026-11-20" / "12-00-00-abcdef"
    assert clip.read_bytes() == (source / "video.mp4").read_bytes()
    assert run.file(media["frames"]).read_bytes() == (source / "frames.png").read_bytes()


def test_curve_of_a_metric_is_a_table(run):
    (media,) = [h for h in run.history if "pitch_track_table" in h]
    curve = json.loads(run.file(media["pitch_track_table"]).read_text())
    assert curve == {"columns": ["s", "Hz"], "data": [[0.0, 440.0], [0.1, 220.0]]}


def test_sweep_run_has_a_table_with_values_metrics_and_videos(offline):
    sweep = offline[1]["seeds-12345678"]
    assert (sweep.run.job_type, sweep.run.run_group) == ("sweep", "seeds-12345678")
    assert [h["results"]["nrows"] for h in sweep.history if "results" in h] == [2]
    (contents,) = [r.artifact.manifest.contents for r in sweep.records
                   if r.WhichOneof("record_type") == "artifact"]  # fmt: skip
    files = {entry.path: Path(entry.local_path) for entry in contents}
    results = json.loads(files["results.table.json"].read_text())
    columns = ["cell", "seed", "status", "seconds", "brightness", "video", "error"]
    assert results["columns"] == columns
    first, second = results["data"]
    assert first[:5] == [0, 0, "completed", 1.5, 0.25]
    assert second[:5] == [1, 1, "failed", 1.5, 1.25]
    assert (first[6], second[6]) == (None, "UserError: no")
    assert first[5]["_type"] == "video-file"
    clip = sweep.folder.parents[1] / "sweeps" / "seeds-12345678" / "000-seed=0" / "video.mp4"
    assert files[first[5]["path"]].read_bytes() == clip.read_bytes()


def test_results_and_environment_are_the_same_with_and_without(offline, tmp_path):
    plain = followed(tmp_path / "outputs", "none")
    assert offline[0]["digest"] == plain["digest"]
    assert offline[0]["environment"] == []


def test_private_run_sends_no_prompt_and_no_path(tmp_path):
    outputs = tmp_path / "outputs"
    followed(outputs, "wandb", "private")
    (folder,) = (outputs / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    run = Offline(folder)
    assert run.config["guidance"] == {"video": {"cfg": 3.0}}
    assert run.summary["brightness"] == 0.5
    assert b"secret" not in file.read_bytes()
    assert not list(folder.rglob("wandb-metadata.json"))


def test_process_that_ends_at_once_leaves_whole_files(tmp_path):
    outputs = tmp_path / "outputs"
    followed(outputs, "wandb", "sweep", "leave")
    folders = sorted((outputs / "wandb").glob("offline-run-*"))
    run, sweep = (Offline(folder) for folder in folders)
    assert (run.summary["status"], sweep.summary["status"]) == ("completed", "completed")
    for found in (run, sweep):
        assert found.records[-1].WhichOneof("record_type") == "exit"


def test_dead_server_costs_no_time_and_one_warning(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dead = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
    for attempt in range(3):  # the least of three: the machine may be busy
        outputs = tmp_path / str(attempt) / "outputs"
        outputs.mkdir(parents=True)
        facts = followed(outputs, "wandb", "sweep", env=dead)
        if facts["start_seconds"] + facts["finish_seconds"] < 0.6:
            break
    assert facts["start_seconds"] < 0.5
    assert facts["start_seconds"] + facts["finish_seconds"] < 1.0
    (warning,) = facts["warnings"]
    assert f"127.0.0.1:{port} cannot be reached (Connection refused)" in warning
    assert "logging offline to" in warning
    folders = sorted((outputs / "wandb").glob("offline-run-*"))
    assert Offline(folders[0]).summary["status"] == "completed"


@pytest.mark.slow
def test_server_that_never_answers_ends_offline(tmp_path):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        env = {"WANDB_API_KEY": "0" * 40,
               "WANDB_BASE_URL": f"http://127.0.0.1:{mute.getsockname()[1]}"}  # fmt: skip
        facts = followed(tmp_path / "outputs", "wandb", env=env, init_timeout=3)
    assert facts["start_seconds"] < 0.5
    (warning,) = facts["warnings"]
    assert "logging offline to" in warning
    (folder,) = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    assert Offline(folder).summary["brightness"] == 0.5


def test_wrong_mode_names_the_right_ones():
    with pytest.raises(UserError, match="mode=onlin is unknown; did you mean 'online'"):
        build({"_target_": TARGET, "mode": "onlin"})


def test_value_of_a_wrong_type_is_refused():
    with pytest.raises(UserError, match=r"logger\.wandb\.log_video=maybe is not true or false"):
        build({"_target_": TARGET, "log_video": "maybe"})
