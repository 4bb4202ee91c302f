"""Exit codes, what a failed run prints, and what it leaves behind."""

from __future__ import annotations

import errno

import pytest

from ltx2.app import main
from ltx2.cli import main as ltx2
from ltx2.errors import UserError


class OutOfMemoryError(RuntimeError):
    """Named like torch's own."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a task that raises what it is given; returns exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def start(action, *arguments):
        monkeypatch.setitem(main.TASKS, "act", lambda settings, folder, _: action(settings, folder))
        code = ltx2(["task=act", *arguments])
        return code, capsys.readouterr().err

    return start


def raising(error):
    def act(_settings, _folder):
        raise error

    return act


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_finished_task_exits_with_0_and_keeps_its_files(run, tmp_path):
    code, err = run(lambda settings, folder: (folder / "video.mp4").touch())
    assert (code, err) == (0, "")
    assert [path.name for path in tmp_path.glob("outputs/*/*/video.mp4")] == ["video.mp4"]


def test_no_arguments_start_the_default_task(tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(main.TASKS, "generate", lambda settings, *_: seen.append(settings))
    assert ltx2([]) == 0
    assert [(s.model.name, s.task) for s in seen] == [("pocket", "generate")]


def test_a_users_mistake_exits_with_2_and_leaves_nothing(run, tmp_path):
    code, err = run(raising(UserError("frames=20 is not 4k + 1")))
    assert (code, err) == (2, "error: frames=20 is not 4k + 1\n")
    assert list((tmp_path / "outputs").iterdir()) == []


def test_an_internal_error_is_one_line_and_its_traceback_is_in_the_log(run, tmp_path):
    def act(_settings, folder):
        (folder / "run.json").touch()
        raise ZeroDivisionError("division by zero")

    code, err = run(act)
    line = "internal error: ZeroDivisionError: division by zero (debug=true shows the traceback)\n"
    assert (code, err) == (1, line)
    [log] = tmp_path.glob("outputs/*/*/run.log")
    assert "Traceback" in log.read_text() and "ZeroDivisionError" in log.read_text()


def test_debug_shows_the_traceback(run):
    code, err = run(raising(UserError("no")), "debug=true")
    assert code == 2
    assert "Traceback" in err and err.endswith("error: no\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("tried to allocate 3 GiB"),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory, out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_says_what_to_do(run, error):
    code, err = run(raising(error))
    assert code == 1
    assert err.startswith("error: out of memory (") and "tiling=both" in err
    assert len(err.splitlines()) == 1


def test_a_full_disk_says_what_to_do(run):
    code, err = run(raising(OSError(errno.ENOSPC, "No space left on device", "video.mp4")))
    line = "error: the disk is full while writing video.mp4; free space or set paths.outputs\n"
    assert (code, err) == (2, line)


def test_an_interrupt_exits_with_130_and_keeps_what_was_written(run, tmp_path):
    def act(_settings, folder):
        (folder / "run.json").touch()
        raise KeyboardInterrupt

    assert run(act) == (130, "interrupted\n")
    assert files(tmp_path) == ["run.json"]


def test_an_interrupt_ends_a_sweep(run):
    seen = []

    def act(settings, _folder):
        seen.append(settings.seed)
        raise KeyboardInterrupt

    assert run(act, "-m", "seed=1,2")[0] == 130
    assert seen == [1]


def test_other_cells_of_a_sweep_run_when_one_fails(run, tmp_path):
    def act(settings, folder):
        if settings.seed == 2:
            raise UserError("seed 2 is unlucky")
        (folder / f"{settings.seed}.txt").touch()

    code, err = run(act, "-m", "seed=1,2,3")
    assert code == 3
    assert "1 of 3 cells failed:\n  001-seed=2: seed 2 is unlucky\n" in err
    assert {"1.txt", "3.txt", "plan.json", "summary.json"} <= set(files(tmp_path))


def test_runs_of_the_same_second_get_their_own_folders(run, tmp_path):
    for _ in range(3):
        run(lambda settings, folder: (folder / "video.mp4").touch())
    assert len(list(tmp_path.glob("outputs/*/*/video.mp4"))) == 3


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "taken").write_text("a file")
    code, err = run(raising(AssertionError("not reached")), "paths.outputs=taken")
    assert code == 2
    assert err.startswith("error: cannot create 'taken") and "set paths.outputs" in err
    assert len(err.splitlines()) == 1


def test_long_overrides_make_short_folder_names(run, tmp_path):
    prompts = ["--prompt", "one " * 100, "--prompt", "two " * 100]
    code, _ = run(lambda settings, folder: (folder / "video.mp4").touch(), *prompts)
    assert code == 0
    names = [path.parent.name for path in tmp_path.rglob("video.mp4")]
    assert len(set(names)) == 2 and max(map(len, names)) <= 64


def test_missing_weights_are_listed_with_size_place_and_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ltx2(["pipeline=two_stage", "model=distilled-fp8", "paths.models=weights"]) == 2
    err = capsys.readouterr().err
    assert "27.1 GB" in err and "weights/ltx-2-19b-distilled-fp8.safetensors" in err
    assert "hf download Lightricks/LTX-2 ltx-2-19b-distilled-fp8.safetensors" in err
    assert files(tmp_path) == []
