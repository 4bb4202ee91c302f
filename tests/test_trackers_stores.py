"""What Trackio and MLflow keep of a run and of a sweep, read back from their databases."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from tracked_process import followed

CLIP = "2026-11-20/12-00-00-abcdef/video.mp4"


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """Facts of a followed run and sweep, outputs folder, and Trackio's folder."""
    base = tmp_path_factory.mktemp("trackio")
    outputs, store = base / "outputs", base / "store"
    facts = followed(outputs, "trackio", "sweep", env={"TRACKIO_DIR": str(store)})
    return facts, outputs, store


def rows(store, text):
    with closing(sqlite3.connect(store / "ltx2.db")) as db:
        return [(name, json.loads(content)) for name, content in db.execute(text)]


def metrics(store, name):
    found = rows(store, "SELECT run_name, metrics FROM metrics ORDER BY id")
    return [content for run, content in found if run == name]


def test_trackio_says_nothing_on_the_terminal(trackio):
    facts = trackio[0]
    assert (facts["warnings"], facts["output"], facts["environment"]) == ([], "", [])


def test_trackio_keeps_the_config(trackio):
    configs = dict(rows(trackio[2], "SELECT run_name, config FROM configs"))
    assert configs["circle"]["guidance.video.cfg"] == 3.0
    assert configs["circle"]["prompt"] == "a secret circle moves"


def test_trackio_keeps_steps_metrics_and_curves(trackio):
    *steps, final = metrics(trackio[2], "circle")
    assert [(s["base/step"], s["base/sigma"]) for s in steps[:2]] == [(0, 1.0), (1, 0.5)]
    assert steps[2]["refine/sigma"] == 0.25
    assert (final["brightness"], final["status"]) == (0.5, "completed")
    curve = [{"x": 0.0, "y": 440.0}, {"x": 0.1, "y": 220.0}]
    assert final["pitch_track"]["_value"] == curve


def test_trackio_keeps_a_copy_of_the_clip(trackio):
    _, outputs, store = trackio
    final = metrics(store, "circle")[-1]
    copy = store / "media" / final["video"]["file_path"]
    assert copy.read_bytes() == (outputs / CLIP).read_bytes()
    assert final["frames"]["_type"] == "trackio.image"


def test_trackio_keeps_the_results_of_a_sweep(trackio):
    (results,) = metrics(trackio[2], "seeds-12345678")
    assert results["results"]["_value"] == [
        {"cell": 0, "seed": 0, "status": "completed", "seconds": 1.5, "brightness": 0.25},
        {"cell": 1, "seed": 1, "status": "failed", "seconds": 1.5, "brightness": 1.25},
    ]


@pytest.mark.slow
def test_mlflow_keeps_parameters_metrics_and_files(tmp_path):
    outputs = tmp_path / "outputs"
    facts = followed(outputs, "mlflow", "sweep", experiment="mine")
    assert (facts["warnings"], facts["environment"], facts["output"]) == ([], [], "")
    uri = f"sqlite:///{outputs / 'mlflow' / 'mlflow.db'}"
    run, sweep = _mlflow_runs(uri, "mine")
    assert run["status"] == "FINISHED"
    assert run["params"]["guidance.video.cfg"] == "3.0"
    assert run["metrics"]["brightness"] == 0.5
    assert run["history"] == [(0, 1.0), (1, 0.5)]
    assert set(run["files"]) == {"video.mp4", "frames.png", "metrics.jsonl"}
    (copy,) = (outputs / "mlflow" / "files").rglob("video.mp4")
    assert copy.read_bytes() == (outputs / CLIP).read_bytes()
    assert sweep["files"] == ["results.json"]
    assert sweep["metrics"] == {"completed": 1.0, "failed": 1.0}


def test_mlflow_server_that_is_not_there_is_one_warning(tmp_path):
    facts = followed(tmp_path / "outputs", "mlflow", tracking_uri="http://127.0.0.1:9")
    (warning,) = facts["warnings"]
    assert warning.startswith("logger mlflow is off from here: ConnectionError: 127.0.0.1:9 cannot")


READ = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
number = client.get_experiment_by_name(sys.argv[2]).experiment_id
found = []
for run in client.search_runs([number], order_by=["attributes.start_time ASC"]):
    key = run.info.run_id
    found.append({"status": run.info.status, "params": run.data.params,
                  "metrics": run.data.metrics,
                  "history": [(m.step, m.value) for m in client.get_metric_history(key,
                              "base/sigma")],
                  "files": [f.path for f in client.list_artifacts(key)]})
print(json.dumps(found))
"""


def _mlflow_runs(uri, experiment):
    """Runs as MLflow's client sees them, in a process of its own: it warns and starts threads."""
    import subprocess
    import sys

    command = [sys.executable, "-c", READ, uri, experiment]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    runs = json.loads(done.stdout.splitlines()[-1])
    return [run | {"history": [tuple(point) for point in run["history"]]} for run in runs]
