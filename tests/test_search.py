"""The search over swept values, on objectives whose best cell is known."""

from __future__ import annotations

import pytest

from ltx2.errors import UserError
from ltx2.experiment.sweep.search import Choices, Goal, Numbers, check_goal, search

pytest.importorskip("optuna")

WIDTH = Numbers("width", 32, 256, 32)
CFG = Numbers("cfg", 1.0, 7.0)
SAMPLER = Choices("sampler", ("euler", "'res_2s'"))


class Bench:
    """Runs cells by a formula and remembers them."""

    def __init__(self, formula, fails=lambda cell: False, dies_at=None):
        self.formula, self.fails, self.dies_at = formula, fails, dies_at
        self.cells, self.batches = [], []

    def __call__(self, batch):
        self.batches.append(len(batch))
        results = []
        for overrides in batch:
            if len(self.cells) == self.dies_at:
                raise KeyboardInterrupt
            cell = dict(text.split("=") for text in overrides)
            self.cells.append(cell)
            results.append(None if self.fails(cell) else self.formula(cell))
        return results


def bowl(cell):
    """Least at cfg 3 with euler."""
    return {"error": (float(cell["cfg"]) - 3) ** 2 + (cell["sampler"] != "euler")}


def goal(trials=10, metrics=("error",), directions=("minimize",), **more):
    return Goal(metrics, directions, trials, **more)


def test_the_best_cell_is_near_the_least_error(tmp_path):
    run = Bench(bowl)
    found = search([CFG, SAMPLER], goal(25), tmp_path / "s.sqlite", run)
    (best,) = found.best
    key, value = best.overrides[0].split("=")
    assert (found.completed, found.failed, found.missing) == (25, 0, 0)
    assert key == "cfg" and abs(float(value) - 3) < 0.4
    assert best.overrides[1] == "sampler=euler"
    assert best.metrics["error"] == min(bowl(cell)["error"] for cell in run.cells)


def test_tpe_beats_random_choice_on_a_bowl(tmp_path):
    def error(sampler):
        path = tmp_path / f"{sampler}.sqlite"
        return search([CFG, SAMPLER], goal(25, sampler=sampler), path, Bench(bowl)).best[0].metrics

    assert error("tpe")["error"] < error("random")["error"]


def test_a_search_in_two_calls_tries_what_one_call_tries(tmp_path):
    whole, first, second = Bench(bowl), Bench(bowl), Bench(bowl)
    search([CFG, WIDTH, SAMPLER], goal(14), tmp_path / "whole.sqlite", whole)
    search([CFG, WIDTH, SAMPLER], goal(7), tmp_path / "parts.sqlite", first)
    search([CFG, WIDTH, SAMPLER], goal(14), tmp_path / "parts.sqlite", second)
    assert first.cells + second.cells == whole.cells
    third = Bench(bowl)
    assert search([CFG, WIDTH, SAMPLER], goal(14), tmp_path / "parts.sqlite", third).completed == 14
    assert third.cells == []


def test_the_cell_that_was_running_when_the_process_died_is_tried_first(tmp_path):
    whole, dying, after = Bench(bowl), Bench(bowl, dies_at=4), Bench(bowl)
    search([CFG, SAMPLER], goal(5), tmp_path / "whole.sqlite", whole)
    with pytest.raises(KeyboardInterrupt):
        search([CFG, SAMPLER], goal(8), tmp_path / "s.sqlite", dying)
    found = search([CFG, SAMPLER], goal(8), tmp_path / "s.sqlite", after)
    assert dying.cells == whole.cells[:4] and after.cells[0] == whole.cells[4]
    assert (found.completed, found.failed, len(after.cells)) == (8, 0, 4)


def test_a_failed_cell_is_a_failed_trial_that_the_next_call_replaces(tmp_path):
    first = Bench(bowl, fails=lambda cell: cell["sampler"] != "euler")
    found = search([CFG, SAMPLER], goal(10), tmp_path / "s.sqlite", first)
    failed = sum(cell["sampler"] != "euler" for cell in first.cells)
    assert failed and (found.completed, found.failed) == (10 - failed, failed)
    assert found.missing == failed
    again = Bench(bowl)
    found = search([CFG, SAMPLER], goal(10), tmp_path / "s.sqlite", again)
    assert len(again.cells) == failed and (found.completed, found.missing) == (10, 0)


def test_a_metric_that_is_not_a_number_is_a_failed_trial(tmp_path, caplog):
    found = search(
        [WIDTH], goal(3), tmp_path / "s.sqlite", Bench(lambda cell: {"error": float("nan")})
    )
    assert (found.best, found.completed, found.failed) == ([], 0, 3)
    assert "counts as failed: error nan" in caplog.text


def test_two_goals_give_the_front_of_cells_that_none_is_better_than(tmp_path):
    def formula(cell):
        width = int(cell["width"])
        return {"error": 1 / width, "seconds": width + 100 * (cell["sampler"] != "euler")}

    run = Bench(formula)
    found = search(
        [WIDTH, SAMPLER],
        goal(16, ("error", "seconds"), ("minimize", "minimize"), sampler="grid"),
        tmp_path / "s.sqlite",
        run,
    )
    assert len(run.cells) == 16
    assert [trial.overrides for trial in found.best] == [
        [f"width={width}", "sampler=euler"] for width in range(256, 0, -32)
    ]


def test_a_grid_tries_every_cell_once_also_in_batches_and_parts(tmp_path):
    axes = [Numbers("cfg", 1.0, 2.0, 0.5), Numbers("seed", 0, 1, 1), SAMPLER]
    first, second = Bench(lambda cell: {"error": 0.0}), Bench(lambda cell: {"error": 0.0})
    search(axes, goal(5, sampler="grid", batch=2), tmp_path / "s.sqlite", first)
    found = search(axes, goal(100, sampler="grid", batch=2), tmp_path / "s.sqlite", second)
    cells = {tuple(cell.values()) for cell in first.cells + second.cells}
    assert first.batches == [2, 2, 1] and found.completed == 12
    assert len(first.cells + second.cells) == len(cells) == 12
    assert {cell[0] for cell in cells} == {"1.0", "1.5", "2.0"}


def test_cells_of_a_batch_differ(tmp_path):
    run = Bench(bowl)
    search([CFG, SAMPLER], goal(16, batch=4), tmp_path / "s.sqlite", run)
    for start in range(0, 16, 4):
        assert len({cell["cfg"] for cell in run.cells[start : start + 4]}) == 4


def test_numbers_keep_their_kind_limits_and_steps(tmp_path):
    axes = [WIDTH, Numbers("rate", 1e-3, 1.0, log=True), Numbers("share", 0.1, 0.5, 0.1)]
    run = Bench(lambda cell: {"error": 0.0})
    search(axes, goal(30, sampler="random"), tmp_path / "s.sqlite", run)
    assert {int(cell["width"]) for cell in run.cells} <= set(range(32, 257, 32))
    assert {cell["share"] for cell in run.cells} == {"0.1", "0.2", "0.3", "0.4", "0.5"}
    rates = sorted(float(cell["rate"]) for cell in run.cells)
    assert rates[0] >= 1e-3 and rates[-1] <= 1 and rates[len(rates) // 2] < 0.2


def test_a_study_of_another_search_is_refused(tmp_path):
    search([CFG], goal(1), tmp_path / "s.sqlite", Bench(lambda cell: {"error": 0.0}))
    with pytest.raises(UserError, match="belongs to another search"):
        search([WIDTH], goal(1), tmp_path / "s.sqlite", Bench(bowl))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("eror",)}, r"eror is not computed; did you mean .error.\?; computed: error"),
        ({"directions": ("down",)}, r"directions=\[down\] does not give each of \[error\]"),
        ({"directions": ()}, r"directions=\[\] does not give each"),
        ({"sampler": "tpee"}, "sampler=tpee is unknown; did you mean 'tpe'"),
        ({"sampler": "grid"}, "cfg: sampler=grid needs a list or range instead of an interval"),
        ({"metrics": (), "directions": ()}, "metrics is empty"),
        ({"batch": 0}, "batch=0 is not 1 or more"),
    ],
)
def test_a_goal_that_cannot_be_reached_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_goal(goal(**change), [CFG], ["error", "seconds"])
