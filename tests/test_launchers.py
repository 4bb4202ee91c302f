"""Launchers of other packages: their options, and real sweeps of the pocket model with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.loopback import Slurm, Unavailable

from ltx2.app.launchers import OPTIONS, check_installed, workers_of
from ltx2.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
TINY = ["pipeline=one_stage", "frames=9", "height=64", "width=64"]
PACKAGES = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *TINY, *arguments]


class Sweep:
    """Command lines of one sweep, run elsewhere than in the repository."""

    def __init__(self, folder: Path, launcher: str, environment: dict[str, str]) -> None:
        self.outputs, self.launcher = folder / "outputs", launcher
        self.environment = os.environ | environment | {"HOME": str(folder / "home")}
        self.cwd = folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        typed = [f"hydra/launcher={self.launcher}", f"paths.outputs={self.outputs}", *arguments]
        return subprocess.Popen(
            command("-m", *typed),
            cwd=self.cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell that runs this in the background has it ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was printed."""
        process = self.start(*arguments)
        told, _ = process.communicate(timeout=400)
        return process.returncode, told

    @property
    def folder(self) -> Path:
        [folder] = (path for path in (self.outputs / "sweeps").iterdir() if path.is_dir())
        return folder

    def statuses(self) -> list[str]:
        summary = json.loads((self.folder / "summary.json").read_text())
        return [cell["status"] for cell in summary["cells"]]

    def records(self) -> list[dict]:
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob("*/run.json"))]

    def worker(self, process: subprocess.Popen[str], cell: str) -> int:
        """The process that runs a cell, as soon as its steps are there: it holds the log open."""
        while process.poll() is None:
            for steps in self.outputs.glob(f"sweeps/*/{cell}*/steps.jsonl"):
                for pid in holders(steps.parent / "run.log"):
                    return pid
            with_patience(process)
        raise AssertionError(f"the sweep ended with {process.returncode}: {process.stdout.read()}")


def with_patience(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        return


def holders(path: Path) -> list[int]:
    """Processes that have `path` open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                found.append(int(link.parts[2]))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The folder of a single run."""
    outputs = tmp_path_factory.mktemp("reference")
    typed = ["scheduler.steps=2", "seed=1", f"paths.outputs={outputs}"]
    subprocess.run(command(*typed), check=True, capture_output=True)
    [record] = outputs.glob("2*/*/run.json")
    return record.parent


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    try:
        with Slurm(tmp_path_factory.mktemp("slurm")) as running:
            yield running
    except Unavailable as reason:
        pytest.skip(f"no Slurm: {reason}")


@pytest.fixture(params=[*PACKAGES, "submitit_slurm"])
def sweep(request, tmp_path) -> Sweep:
    environment = {"OMP_NUM_THREADS": "1"}
    if request.param == "submitit_slurm":
        pytest.importorskip("submitit")
        environment |= request.getfixturevalue("slurm").environment
    else:
        pytest.importorskip(PACKAGES[request.param])
    (tmp_path / "home").mkdir()
    return Sweep(tmp_path, request.param, environment)


@pytest.mark.slow
def test_a_failing_cell_leaves_the_others_alone_and_workers_share_the_cache(
    sweep, reference, tmp_path
):
    later = tmp_path / "later"
    typed = ["seed=1,2", f"metrics.psnr.reference={reference},{later}", "metrics=[psnr]"]
    typed.append("scheduler.steps=2")
    code, told = sweep.run(*typed)
    assert code == 3 and "2 of 4 cells failed" in told, told
    assert sweep.statuses() == ["completed", "failed", "completed", "failed"], told
    equal, bad, other, _ = sweep.records()
    assert equal["metrics"]["psnr"] > 30 > other["metrics"]["psnr"]  # of the encoded clip
    assert equal["sweep"] == sweep.folder.name
    assert "later does not exist" in bad["error"] and bad["status"] == "failed"

    shutil.copytree(reference, later)
    code, told = sweep.run(*typed)
    assert code == 0 and sweep.statuses() == ["skipped", "completed", "skipped", "completed"], told
    actions = {stage["name"]: stage["action"] for stage in sweep.records()[1]["stages"]}
    assert actions["base"] == "reused"
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_a_killed_worker_costs_only_the_time_of_its_cell(sweep):
    process = sweep.start("seed=1,2,3", "scheduler.steps=40", "cache=off")
    os.kill(sweep.worker(process, "001"), signal.SIGKILL)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0, told
    assert sweep.statuses() == ["completed"] * 3
    assert "were lost with their worker" in told


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_worker_and_goes_on_when_it_is_run_again(sweep):
    typed = ["seed=1,2,3", "scheduler.steps=40", "cache=off"]
    process = sweep.start(*typed)
    worker = sweep.worker(process, "001")
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 130, told
    assert "completed" not in sweep.statuses()[1:] and "lost" not in sweep.statuses(), told
    assert worker not in holders(next(sweep.folder.glob("001*/run.log")))
    code, told = sweep.run(*typed)
    assert code == 0 and set(sweep.statuses()) <= {"completed", "skipped"}, told


@pytest.mark.parametrize("option", OPTIONS)
def test_options_compose_without_warnings_whether_their_package_is_there_or_not(option, tmp_path):
    asked = command("-m", f"hydra/launcher={option}", "seed=1", "sweep.dry_run=true")
    told = subprocess.run(
        [*asked[:1], "-W", "error::UserWarning", *asked[1:], f"paths.outputs={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and told.stderr == "", told.stderr
    assert "1 cells, 1 to run" in told.stdout and not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    target = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    with pytest.raises(UserError, match=r"needs hydra-joblib-launcher; pip install 'ltx2\[joblib"):
        check_installed(target)
    check_installed("hydra_plugins.ltx2.InProcessLauncher")


def test_cells_at_a_time_are_read_from_a_launchers_settings():
    launchers = pytest.importorskip("hydra_plugins.hydra_joblib_launcher.joblib_launcher")
    made = launchers.JoblibLauncher
    assert workers_of(made(n_jobs=3)) == 3
    assert workers_of(made(n_jobs=-1)) == os.cpu_count()
    with pytest.raises(UserError, match=r"n_jobs=0 is not a whole number from 1 or -1"):
        workers_of(made(n_jobs=0))


def test_slurm_without_its_commands_says_where_to_run_it(tmp_path):
    pytest.importorskip("submitit")
    if shutil.which("srun"):
        pytest.skip("this machine has Slurm")
    asked = command("-m", "hydra/launcher=submitit_slurm", "seed=1", f"paths.outputs={tmp_path}")
    told = subprocess.run(asked, capture_output=True, text=True)
    assert told.returncode == 2 and "failed:" not in told.stderr
    assert "run it on a machine with sbatch and srun" in told.stderr.splitlines()[-1]
    [summary] = tmp_path.glob("sweeps/*/summary.json")
    assert json.loads(summary.read_text())["counts"]["pending"] == 1


@pytest.mark.slow
def test_more_than_ray_has_is_refused_instead_of_waited_for(tmp_path):
    pytest.importorskip("ray")
    more = "hydra.launcher.ray.remote.num_cpus=4096"
    typed = ["-m", "hydra/launcher=ray", more, "seed=1", f"paths.outputs={tmp_path}"]
    told = subprocess.run(command(*typed), capture_output=True, text=True, timeout=300)
    assert told.returncode == 2
    assert "num_cpus=4096 for a cell, and Ray has" in told.stderr.splitlines()[-1]
