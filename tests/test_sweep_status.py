"""What is known of cells while they run, how long is left, and what is shown of it."""

from __future__ import annotations

import io
import json

import pytest

from ltx2.experiment.sweep.plan import Cell
from ltx2.experiment.sweep.status import (
    Board,
    CellResult,
    clear,
    expected_seconds,
    finished_record,
    result_in,
    statuses_before,
    write_summary,
)
from ltx2.experiment.sweep.table import (
    LiveTable,
    clock,
    ended_line,
    failure_table,
    headline,
    progress,
    window,
)


def cell(index: int, cost: float = 1.0, **values: str) -> Cell:
    named = values or {"seed": str(index)}
    return Cell(index, f"id{index}", f"{index:03d}", (), named, cost=cost, steps={"base": 8})


@pytest.fixture
def board(tmp_path):
    made = Board("s-1", tmp_path)
    made.add(cell(i) for i in range(4))
    return made


def test_seconds_of_cells_alike_in_cost_count_scaled_and_the_later_ones_first():
    assert expected_seconds(2.0, [(1.0, 3.0)]) == 6.0
    far = [(100.0, 1.0)]
    assert expected_seconds(1.0, [(1.0, 9.0), *far, (1.0, 2.0), (1.1, 2.2), (1.0, 2.0)]) == 2.0
    assert expected_seconds(0.0, [(5.0, 1.0), (7.0, 3.0)]) == 2.0
    assert expected_seconds(4.0, [(0.0, 3.0)]) == 3.0


def test_the_time_left_counts_waiting_cells_and_the_rest_of_running_ones(board):
    assert board.seconds_left() is None
    board.end(CellResult(0, "skipped", 99.0))
    assert board.seconds_left() is None  # an earlier call, perhaps another machine
    board.begin(board.cells[1])
    board.end(CellResult(1, "completed", 10.0))
    assert board.seconds_left() == pytest.approx(20.0)
    board.begin(board.cells[2])
    board.states[2].began -= 4.0
    assert board.seconds_left() == pytest.approx(16.0, abs=0.1)
    board.workers = 2
    assert board.seconds_left() == pytest.approx(8.0, abs=0.1)


def test_the_summary_lists_every_cell_and_is_read_back(board):
    board.end(CellResult(0, "completed", 1.23456))
    board.end(CellResult(1, "failed", 0.5, "no"))
    record = write_summary(board, "running")
    assert json.loads((board.folder / "summary.json").read_text()) == record
    assert record["counts"] == {"completed": 1, "skipped": 0, "failed": 1, "interrupted": 0,
                                "lost": 0, "pending": 2, "running": 0}  # fmt: skip
    assert record["finished"] is None and record["cells"][0]["seconds"] == 1.235
    assert record["cells"][1] == {
        "index": 1, "cell": "id1", "folder": "001", "status": "failed", "seconds": 0.5,
        "error": "no", "values": {"seed": "1"},
    }  # fmt: skip
    assert statuses_before(board.folder)["id0"] == "completed"
    (board.folder / "summary.json").write_text("{")
    assert statuses_before(board.folder) == {}


def write(folder, **record):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))


def test_a_run_is_finished_when_it_is_the_same_cell_and_its_files_are_there(tmp_path):
    folder = tmp_path / "run"
    assert finished_record(folder, "x") is None
    write(folder, status="completed", cell="x", files={"video": "video.mp4", "audio": None})
    assert finished_record(folder, "x") is None
    (folder / "video.mp4").touch()
    assert finished_record(folder, "x") and finished_record(folder, "y") is None
    write(folder, status="failed", cell="x", files={})
    assert finished_record(folder, "x") is None
    (folder / "run.json").write_text("[")
    assert finished_record(folder, "x") is None


def test_a_cell_that_ran_elsewhere_is_told_from_its_record(tmp_path):
    one = cell(1)
    assert result_in(tmp_path / "none", one).status == "lost"
    write(tmp_path, status="completed", seconds=1.0, started="2026-01-01T10:00:00Z",
          finished="2026-01-01T10:00:02.500Z")  # fmt: skip
    assert result_in(tmp_path, one) == CellResult(1, "completed", 2.5)
    write(tmp_path, status="failed", seconds=1.0, error="no")
    assert result_in(tmp_path, one) == CellResult(1, "failed", 1.0, "no")
    write(tmp_path, nothing=1)
    assert result_in(tmp_path, one).status == "lost"


def test_a_folder_that_is_used_again_keeps_only_its_log(tmp_path):
    for name in ("run.log", "run.json", "steps.jsonl", "latents/a.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear(tmp_path)
    clear(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_a_line_per_cell_says_what_is_left(board):
    result = CellResult(0, "completed", 3.21)
    board.begin(board.cells[0])
    board.end(result)
    assert ended_line(board, board.cells[0], result) == (
        "[1/4] seed=0 ... completed in 3.2 s, about 0:10 left"
    )
    failed = CellResult(1, "failed", 0.1, "no")
    board.end(failed)
    assert "[2/4] seed=1 ... failed in 0.1 s: no, about" in ended_line(
        board, board.cells[1], failed
    )
    assert failure_table(board) == ["1 of 4 cells failed:", "  001: no"]


def test_the_table_shows_values_as_they_are_status_and_progress(tmp_path):
    from rich.console import Console

    board = Board("s-1", tmp_path)
    board.add([cell(0, prompt="a [bold]red[/bold] cat"), cell(1, prompt="b")])
    board.begin(board.cells[0])
    (tmp_path / "000").mkdir()
    lines = [{"stage": "base", "step": step} for step in range(3)]
    (tmp_path / "000" / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with LiveTable(board, console) as table:
        board.end(CellResult(1, "completed", 2.0))
        table.ended(board.cells[1], CellResult(1, "completed", 2.0))
    text = out.getvalue()
    assert "a [bold]red[/bold] cat" in text and "running base 3/8" in text
    assert "s-1: 1 of 2 done" in text and "completed" in text and "2.0 s" in text


def test_progress_survives_a_torn_line_and_an_unknown_stage(tmp_path):
    assert progress(tmp_path, cell(0)) == ""
    path = tmp_path / "steps.jsonl"
    path.write_text('{"stage": "refine", "step": 0}\n')
    assert progress(tmp_path, cell(0)) == "refine 1"
    path.write_text('{"stage": "ba')
    assert progress(tmp_path, cell(0)) == ""


def test_a_long_sweep_shows_the_cells_around_those_that_run(tmp_path):
    board = Board("s", tmp_path)
    board.add(cell(i) for i in range(100))
    for i in range(50):
        board.end(CellResult(i, "completed", 1.0))
    board.begin(board.cells[50])
    shown = [c.index for c in window(board.cells, board, rows=9)]
    assert shown == [46, 47, 48, 49, 50, 51, 52, 53, 54]
    for i in range(50, 100):
        board.end(CellResult(i, "completed", 1.0))
    assert [c.index for c in window(board.cells, board, rows=9)] == list(range(91, 100))
    assert headline(board) == "s: 100 of 100 done"


def test_seconds_are_shown_as_a_clock():
    assert [clock(s) for s in (0.4, 80, 3723)] == ["0:00", "1:20", "1:02:03"]
