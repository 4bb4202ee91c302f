"""Sweeps through the command line with a task that makes nothing: order, failures, resuming."""

from __future__ import annotations

import json
import shutil

import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from ltx2.app import main
from ltx2.cli import main as ltx2
from ltx2.errors import UserError
from ltx2.experiment.cell import cell_id


class Sweeps:
    """Runs command lines below `folder` with a task that notes its seeds and writes a record."""

    def __init__(self, folder, capsys):
        self.folder, self._capsys = folder, capsys
        self.ran: list[tuple] = []
        self.bad: dict[int, BaseException] = {}

    def task(self, settings, folder, job):
        self.ran.append((settings.seed, settings.prompt))
        if settings.seed in self.bad:
            raise self.bad[settings.seed]
        (folder / "video.mp4").write_text(str(settings.seed))
        record = {"status": "completed", "cell": cell_id(settings), "sweep": job.sweep}
        record |= {"files": {"video": "video.mp4"}, "metrics": {"bright": settings.seed / 10}}
        (folder / "run.json").write_text(json.dumps(record))

    def run(self, *arguments):
        """Exit code, stderr and stdout; what ran is in `seeds`."""
        self.ran.clear()
        code = ltx2(["-m", "task=act", f"paths.outputs={self.folder}", *arguments])
        told = self._capsys.readouterr()
        return code, told.err, told.out

    @property
    def seeds(self):
        return [seed for seed, _ in self.ran]

    @property
    def sweep(self):
        [folder] = (self.folder / "sweeps").iterdir()
        return folder

    def read(self, name):
        return json.loads((self.sweep / name).read_text())

    def statuses(self):
        return [cell["status"] for cell in self.read("summary.json")["cells"]]


@pytest.fixture
def sweeps(tmp_path, monkeypatch, capsys):
    made = Sweeps(tmp_path / "outputs", capsys)
    monkeypatch.setitem(main.TASKS, "act", made.task)
    monkeypatch.setattr("ltx2.app.sweeps.publish", lambda *_: None)
    # Hydra composes everything once more only to learn that this is a sweep.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_args, **_named: RunMode.MULTIRUN)
    return made


def test_a_sweep_writes_its_plan_its_cells_and_its_summary(sweeps):
    code, err, _ = sweeps.run("seed=1,2", "height=64,96", "width=64")
    assert code == 0 and sweeps.seeds == [1, 1, 2, 2]
    plan, summary = sweeps.read("plan.json"), sweeps.read("summary.json")
    assert plan["sweep"] == summary["sweep"] == sweeps.sweep.name
    assert plan["command"][:2] == ["-m", "task=act"] and plan["overrides"][-1] == "width=64"
    assert plan["axes"] == [{"key": "seed", "values": ["1", "2"]},
                            {"key": "height", "values": ["64", "96"]}]  # fmt: skip
    assert plan["base"]["width"] == 64 and "seed" not in plan["base"]
    last = plan["cells"][3]
    assert last["folder"] == "003-seed=2,height=96"
    assert last["overrides"][-3:] == ["seed=2", "height=96", "width=64"]
    record = json.loads((sweeps.sweep / last["folder"] / "run.json").read_text())
    assert record["cell"] == last["cell"] and record["sweep"] == plan["sweep"]
    assert summary["status"] == "completed" and summary["counts"]["completed"] == 4
    assert "[4/4] seed=2 height=96 ... completed in" in err


def test_the_same_command_runs_only_what_is_not_finished(sweeps):
    sweeps.bad[2] = UserError("seed 2 is unlucky")
    code, err, _ = sweeps.run("seed=1,2,3", "sweep.name=mine")
    assert code == 3 and sweeps.seeds == [1, 2, 3]
    assert "1 of 3 cells failed:\n  001-seed=2: seed 2 is unlucky\n" in err
    assert sweeps.statuses() == ["completed", "failed", "completed"]
    assert sweeps.read("summary.json")["cells"][1]["error"] == "seed 2 is unlucky"
    assert json.loads((sweeps.sweep / "001-seed=2" / "run.json").read_text())["status"] == "failed"
    sweeps.bad.clear()
    assert sweeps.run("sweep.name=mine", "seed=1,2,3", "sweep.max_failures=2")[0] == 0
    assert sweeps.seeds == [2]
    assert sweeps.statuses() == ["skipped", "completed", "skipped"]
    assert sweeps.run("seed=1,2,3", "sweep.name=mine")[0] == 0
    assert sweeps.seeds == []


def test_a_failure_leaves_its_traceback_in_the_cells_log(sweeps):
    sweeps.bad[1] = ZeroDivisionError("division by zero")
    code, err, _ = sweeps.run("seed=1,2")
    assert code == 3 and "internal error: ZeroDivisionError" in err and "Traceback" not in err
    assert "Traceback" in (sweeps.sweep / "000-seed=1" / "run.log").read_text()


def test_a_sweep_stops_after_as_many_failures_as_it_may_have(sweeps):
    sweeps.bad |= {1: UserError("no"), 2: UserError("no")}
    code, err, _ = sweeps.run("seed=1,2,3,4", "sweep.max_failures=2")
    assert code == 3 and sweeps.seeds == [1, 2]
    assert "stopped after 2 failed cells" in err and "2 are left" in err
    assert sweeps.statuses() == ["failed", "failed", "pending", "pending"]
    assert sweeps.run("seed=1,2,3,4", "sweep.max_failures=0")[0] == 2


def test_an_interrupt_ends_the_sweep_and_the_next_one_goes_on(sweeps):
    sweeps.bad[2] = KeyboardInterrupt()
    code, err, _ = sweeps.run("seed=1,2,3")
    assert code == 130 and err.endswith("interrupted\n")
    assert sweeps.statuses() == ["completed", "interrupted", "pending"]
    assert sweeps.read("summary.json")["status"] == "interrupted"
    sweeps.bad.clear()
    assert sweeps.run("seed=1,2,3")[0] == 0 and sweeps.seeds == [2, 3]


@pytest.mark.parametrize("lost", ["run.json", "video.mp4", "."])
def test_a_cell_that_is_moved_or_half_deleted_runs_again(sweeps, lost):
    assert sweeps.run("seed=1,2")[0] == 0
    cell = sweeps.sweep / "000-seed=1"
    if lost == ".":
        shutil.rmtree(cell)
    else:
        (cell / lost).unlink()
    code, err, _ = sweeps.run("seed=1,2")
    assert code == 0 and sweeps.seeds == [1]
    assert err.count("000-seed=1 was finished, but is moved or half deleted: it runs again") == 1


def test_a_finished_cell_of_other_settings_is_kept_beside_the_new_one(sweeps):
    assert sweeps.run("seed=1")[0] == 0
    record = sweeps.sweep / "000-default" / "run.json"
    plan = sweeps.read("plan.json")
    old = "0123456789ab"  # as if a file of conf had been edited since
    plan["cells"][0]["cell"] = old
    (sweeps.sweep / "plan.json").write_text(json.dumps(plan))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"cell": old}))
    assert sweeps.run("seed=1")[0] == 0 and sweeps.seeds == [1]
    assert json.loads(record.read_text())["cell"] == old
    assert len(list(sweeps.sweep.glob("000-default-*/run.json"))) == 1


def test_bad_cells_are_refused_before_anything_runs_or_is_written(sweeps):
    code, err, _ = sweeps.run("pipeline=one_stage,distilled", "scheduler.steps=4")
    line = ("error: cell 1 (pipeline=distilled): scheduler.steps has no effect:"
            " the 9 given sigmas are the whole schedule; drop it\n")  # fmt: skip
    assert (code, err, sweeps.seeds) == (2, line, [])
    assert not sweeps.folder.exists()


def test_files_and_sizes_of_all_cells_are_checked_before_the_first_runs(tmp_path, capsys):
    heights = "height=64,65,66"
    assert ltx2(["-m", heights, "pipeline=one_stage", f"paths.outputs={tmp_path / 'out'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cell 1 (height=65): height=65 is not a multiple of 16")
    assert err.endswith("(2 of 3 cells are refused)\n") and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_axes_advance_together_and_tables_multiply(sweeps, tmp_path):
    (tmp_path / "cells.yaml").write_text("- {prompt: 'a, b'}\n- {prompt: 'c', width: 96}\n")
    arguments = ["seed=1,2", "height=64,96", "sweep.zip=[seed,height]", "width=64",
                 f"sweep.cells={tmp_path / 'cells.yaml'}"]  # fmt: skip
    assert sweeps.run(*arguments, "sweep.order=given")[0] == 0
    assert sweeps.ran == [(1, "a, b"), (1, "c"), (2, "a, b"), (2, "c")]
    assert sweeps.read("plan.json")["cells"][1]["values"] == {
        "seed": "1", "height": "64", "prompt": "c", "width": "96",
    }  # fmt: skip


def test_axes_of_a_preset_are_swept_unless_the_command_line_says_otherwise(sweeps, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "study.yaml").write_text(
        "# @package _global_\n# a study\nsweep:\n  name: study\n"
        "  grid:\n    output: [mp4, gif]\n    seed: [1, 2]\n    prompt: ['a, b', c]\n"
    )
    given = ["--config-dir", str(tmp_path), "experiment=study"]
    assert sweeps.run(*given, "seed=7", "sweep.order=given")[0] == 0
    assert sweeps.ran == [(7, "a, b"), (7, "c")] * 2
    assert sweeps.sweep.name.startswith("study-")
    values = [cell["values"] for cell in sweeps.read("plan.json")["cells"]]
    assert values[3] == {"output": "gif", "prompt": "c"}
    assert sweeps.run(*given, "sweep.grid={seed:3}")[0] == 2


def test_cells_that_share_a_prompt_run_side_by_side_in_the_folders_that_were_typed(sweeps):
    assert sweeps.run("seed=1,2", "prompt='a','b'")[0] == 0
    assert sweeps.ran == [(1, "a"), (2, "a"), (1, "b"), (2, "b")]
    names = sorted(path.name for path in sweeps.sweep.iterdir() if path.is_dir())
    assert names[1] == "001-seed=1,prompt=b"


def test_a_dry_run_prints_the_grid_and_writes_nothing(tmp_path, capsys):
    arguments = ["-m", "pipeline=one_stage", "frames=9", "height=64,128", "width=64", "seed=1",
                 f"paths.outputs={tmp_path / 'out'}", "sweep.dry_run=true"]  # fmt: skip
    assert ltx2(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cell", "height", "calls", "cost", "from", "cache"]
    small, large = (line.split() for line in lines[1:3])
    assert small[:2] == ["0", "64"] and large[:2] == ["1", "128"] and small[2] == large[2]
    assert int(small[3]) + int(large[3]) in (99, 100, 101) and int(large[3]) > int(small[3])
    assert lines[3].startswith("2 cells, 2 to run, in ")
    assert not (tmp_path / "out").exists()


def test_prompts_of_a_file_are_cells_of_one_sweep(sweeps, tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("- a fox\n- {prompt: 'rain, on glass', seed: 5}\n")
    given = ["task=act", f"paths.outputs={sweeps.folder}", "seed=3", "--prompts-file", str(path)]
    assert ltx2(given) == 0
    assert sweeps.ran == [(3, "a fox"), (5, "rain, on glass")]
    assert [cell["values"] for cell in sweeps.read("plan.json")["cells"]] == [
        {"prompt": "a fox"}, {"prompt": "rain, on glass", "seed": "5"},
    ]  # fmt: skip
    sweeps.ran.clear()
    assert ltx2(given) == 0 and sweeps.ran == []
    assert ltx2([*given, "--prompt", "x"]) == 2
    path.write_text("- {seed: 1}\n")
    assert ltx2(given) == 2


def test_resume_repeats_the_command_also_where_the_folder_was_moved_to(
    sweeps, tmp_path, monkeypatch
):
    sweeps.bad[2] = UserError("no")
    assert sweeps.run("seed=1,2", "prompt='a, b','c'")[0] == 3
    moved = tmp_path / "moved"
    shutil.move(sweeps.sweep, moved)
    sweeps.bad.clear()
    sweeps.ran.clear()
    monkeypatch.chdir(tmp_path)
    assert ltx2(["resume", "moved"]) == 0
    assert sweeps.ran == [(2, "a, b"), (2, "c")]
    summary = json.loads((moved / "summary.json").read_text())
    assert summary["counts"]["skipped"] == 2 and summary["status"] == "completed"
    sweeps.ran.clear()
    assert ltx2(["resume", str(moved)]) == 0 and sweeps.ran == []


def test_what_is_no_sweep_cannot_be_resumed(tmp_path, capsys):
    assert ltx2(["resume", str(tmp_path)]) == 2
    assert "is no sweep: it has no plan.json" in capsys.readouterr().err


def test_two_sweeps_do_not_share_a_folder(sweeps, tmp_path):
    place = f"hydra.sweep.dir={tmp_path / 'here'}"
    assert sweeps.run("seed=1,2", place)[0] == 0
    assert (tmp_path / "here" / "001-seed=2" / "run.json").exists()
    code, err, _ = sweeps.run("seed=1,3", place)
    assert code == 2 and "holds another sweep, seed-" in err
    code, err, _ = sweeps.run("seed=1,3", "hydra.sweep.subdir=x")
    assert code == 2 and "hydra.sweep.subdir has no effect" in err


def test_a_sweep_that_is_running_cannot_be_started_again(sweeps):
    import fcntl

    assert sweeps.run("seed=1,2")[0] == 0
    with (sweeps.sweep / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, err, _ = sweeps.run("seed=1,2")
    assert code == 2 and "is running in another process" in err


def test_entries_may_be_set_that_only_some_cells_have(sweeps):
    code, err, _ = sweeps.run("lora=[user],[user,camera_static]", "lora.user.file=x.safetensors")
    assert (code, len(sweeps.ran)) == (0, 2), err


def test_cells_of_hydras_own_launcher_are_told_apart_by_their_records(sweeps):
    sweeps.bad[2] = UserError("seed 2 is unlucky")
    code, err, _ = sweeps.run("seed=1,2", "prompt='a, b'", "hydra/launcher=basic")
    assert code == 3 and sweeps.ran == [(1, "a, b"), (2, "a, b")]
    assert sweeps.statuses() == ["completed", "failed"]
    assert "001-seed=2: seed 2 is unlucky" in err
    assert sweeps.run("seed=1,2", "prompt='a, b'")[0] == 3 and sweeps.seeds == [2]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("seed=1,2 hydra/launcher=none_such", "error: Could not find 'hydra/launcher/none_such'"),
        ("seed=1,2 hydra/launcher=gpu_pool hydra.launcher.devices=[gpu]", "gpu is no device"),
        ("seed=1,2 sweep.zip=3", "error: sweep.zip=3 is not a list"),
        ("seed=1,2 sweep.zip=[[seed],3]", "error: sweep.zip is not a list of keys"),
        ("seed=1,2 sweep.order=x", "error: sweep.order=x is unknown"),
    ],
)
def test_a_mistake_is_one_line(sweeps, arguments, line):
    code, err, _ = sweeps.run(*arguments.split())
    assert code == 2 and sweeps.seeds == []
    assert line in err and len(err.splitlines()) == 1
