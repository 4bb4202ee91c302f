"""Cells from what was typed: products, zipped axes, tables, names and the order they run in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ltx2.errors import UserError
from ltx2.experiment.sweep.cells_file import read_cells
from ltx2.experiment.sweep.grid import Axis, Choice, choices
from ltx2.experiment.sweep.names import SLUG_LENGTH, cell_folder, sweep_id
from ltx2.experiment.sweep.order import run_order
from ltx2.experiment.sweep.plan import Cell, SweepPlan, read_plan, shared_base, write_plan


def axis(key: str, *values: str) -> Axis:
    return Axis(key, tuple(f"{key}={value}" for value in values), values)


def values_of(cells: list[Choice]) -> list[str]:
    return [" ".join(cell.values.values()) for cell in cells]


def test_the_first_axis_varies_slowest_and_fixed_overrides_keep_their_place():
    cells = choices(["width=64", axis("seed", "1", "2"), "fps=8", axis("height", "64", "96")])
    assert values_of(cells) == ["1 64", "1 96", "2 64", "2 96"]
    assert cells[1].overrides == ("width=64", "seed=1", "fps=8", "height=96")


def test_zipped_axes_advance_together_and_others_multiply():
    typed = [axis("seed", "1", "2"), axis("fps", "8", "9"), axis("height", "64", "96")]
    assert values_of(choices(typed, [["seed", "height"]])) == [
        "1 64 8", "1 64 9", "2 96 8", "2 96 9",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("zipped", "message"),
    [
        ([["seed", "hight"]], "sweep.zip names hight, .*did you mean 'height'"),
        ([["seed", "fps"]], "seed has 2, fps has 3 values"),
        ([["seed", "height"], ["height"]], "names height twice"),
    ],
)
def test_axes_that_cannot_be_zipped_are_refused(zipped, message):
    typed = [axis("seed", "1", "2"), axis("height", "64", "96"), axis("fps", "1", "2", "3")]
    with pytest.raises(UserError, match=message):
        choices(typed, zipped)


def test_a_table_replaces_fixed_overrides_and_multiplies_with_axes():
    tables = [Choice(("fps=8",), {"fps": "8"}), Choice(("prompt='x'",), {"prompt": "x"})]
    cells = choices(["fps=24", axis("seed", "1", "2")], tables=tables)
    assert [cell.overrides for cell in cells] == [
        ("seed=1", "fps=8"),
        ("fps=24", "seed=1", "prompt='x'"),
        ("seed=2", "fps=8"),
        ("fps=24", "seed=2", "prompt='x'"),
    ]


def test_a_key_of_a_table_that_is_swept_as_well_is_refused():
    with pytest.raises(UserError, match="entry 1 sets seed, which is swept as well"):
        choices([axis("seed", "1", "2")], tables=[Choice(("seed=3",), {"seed": "3"})])


def test_a_cells_file_has_prompts_and_tables(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text(
        "- a fox\n- {seed: 3, model: pocket}\n- guidance: {video: {cfg: 2.0}}\n"
        "  lora.user.schedule: {0.9: 1.0}\n"
    )
    assert read_cells(path) == [
        {"prompt": "a fox"},
        {"seed": 3, "model": "pocket"},
        {"guidance.video.cfg": 2.0, "lora.user.schedule": {0.9: 1.0}},
    ]
    text = tmp_path / "prompts.txt"
    text.write_text("# mine\na fox\n\nrain: it's [wet]\n")
    assert read_cells(text) == [{"prompt": "a fox"}, {"prompt": "rain: it's [wet]"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 3", "is not a list of cells"),
        ("[]", "is not a list of cells"),
        ("- 3", "entry 1: 3 is neither a prompt nor a table"),
        ("- {seed: 1}\n- {}", "entry 2: {} is neither"),
        ("- {seed: 1, day: 2024-05-01}", "entry 1: day: a date is no setting"),
        ("- {1: 2}", "entry 1: 1 is not the name"),
        ("- {'a b': 2}", "entry 1: 'a b' is not the name"),
        ("- {a.b: 1, a: {b: 2}}", r"entry 1: a\.b is given twice"),
        ("- [\n", "line 2: not YAML"),
    ],
)
def test_a_mistake_in_a_cells_file_names_its_place(tmp_path, content, message):
    path = tmp_path / "cells.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_cells(path)
    assert "\n" not in str(error.value)


def test_a_cells_file_of_another_kind_or_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.yaml, \.yml or \.txt"):
        read_cells(tmp_path / "cells.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_cells(tmp_path / "cells.yaml")


def test_the_same_sweep_has_the_same_name_however_it_is_run():
    typed = ["seed=1,2", "pipeline=distilled"]
    name = sweep_id("", ["seed"], typed)
    assert name.startswith("seed-") and len(name) == len("seed-") + 8
    how = [
        "sweep.dry_run=true",
        "sweep.max_failures=2",
        "paths.outputs=/x",
        "cache=off",
        "logger=[a]",
    ]
    assert sweep_id("", ["seed"], [*reversed(typed), *how]) == name
    assert sweep_id("", ["seed"], ["seed=1,3", "pipeline=distilled"]) != name
    assert sweep_id("cfg study", ["seed"], typed).startswith("cfg-study-")


@pytest.mark.parametrize("text", ["1", "a calm sea, at dawn", "x" * 300, "../..", "é'\"\n", ""])
def test_a_cells_folder_begins_with_its_position_and_is_short(text):
    name = cell_folder(7, {"prompt": text, "seed": "1"})
    assert name.startswith("007-") and len(name) <= SLUG_LENGTH
    assert "/" not in name and "\n" not in name


def test_a_cells_folder_is_readable():
    name = cell_folder(3, {"seed": "1", "lora.user.strength": "0.5"})
    assert name == "003-seed=1,lora.user.strength=0.5"


def settings(model: str, prompt: str, lora: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(
        backend={}, model={"name": model}, dtype={}, pipeline={}, lora={"user": lora},
        prompt=prompt, negative_prompt=None,
    )  # fmt: skip


def test_cells_that_share_a_model_lora_and_prompt_run_side_by_side():
    made = [("b", "x", 0.1), ("a", "x", 0.1), ("b", "y", 0.2), ("a", "x", 0.2), ("b", "x", 0.2),
            ("b", "y", 0.1)]  # fmt: skip
    cells = [Cell(i, str(i), "", (), {}, settings(m, p, s)) for i, (m, p, s) in enumerate(made)]
    assert [cell.index for cell in run_order(cells)] == [0, 5, 4, 2, 1, 3]
    assert [cell.index for cell in run_order(cells, "given")] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"sweep\.order=fast is unknown"):
        run_order(cells, "fast")


def test_a_plan_is_read_back(tmp_path):
    cells = (Cell(0, "ab", "000-seed=1", ("seed=1",), {"seed": "1"}),
             Cell(1, "cd", "001-seed=2", ("seed=2",), {"seed": "2"}))  # fmt: skip
    plan = SweepPlan("s-1", "", "now", ("-m", "seed=1,2"), "/", ("seed=1,2",), cells, {"fps": 8.0})
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert plan.axes == [{"key": "seed", "values": ["1", "2"]}]
    assert plan.cell_in("001-seed=2") == cells[1]


def test_a_folder_without_a_plan_has_none_and_a_broken_one_is_named(tmp_path):
    assert read_plan(tmp_path) is None and read_plan(tmp_path / "none") is None
    (tmp_path / "plan.json").write_text('{"sweep": 1}')
    with pytest.raises(UserError, match="is not the plan of a sweep"):
        read_plan(tmp_path)


def test_the_base_of_a_sweep_is_what_all_cells_share():
    from ltx2.pipelines.settings import Settings

    base = shared_base([Settings(seed=1, height=64), Settings(seed=2, height=64)])
    assert "seed" not in base and base["height"] == 64 and base["tiling.mode"] == "auto"
