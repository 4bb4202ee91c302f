"""The parity command: what it counts as a failure, what it prints, what it returns."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx2.parity.__main__ import main
from ltx2.parity.registry import RUNNERS, component
from ltx2.parity.runner import compare, find_cases, run_case

WANT = {"a": np.array([1.0, -2.0, 4.0], np.float32), "b.0": np.array([[3, 4]], np.int64)}


@pytest.fixture
def cases(tmp_path, request):
    """Writes cases of a component registered for the test; its outputs come from `inputs`."""

    @component("test.echo")
    def echo(case):
        if case.settings.get("fail"):
            raise ZeroDivisionError("first line\nsecond line")
        return {name: case.numpy(case.array(name)) for name in case.inputs}

    request.addfinalizer(lambda: RUNNERS.pop("test.echo"))

    def write(name, got=None, stored=WANT, kind="test.echo", limits=(0.0, 1e-3), **record):
        folder = tmp_path / "cases" / name
        folder.mkdir(parents=True)
        save_file(WANT if got is None else got, folder / "inputs.safetensors")
        save_file(stored, folder / "outputs.safetensors")
        tolerance = {"rtol": limits[0], "atol": limits[1]}
        record = {"id": name, "component": kind, "tolerance": tolerance, "settings": {}} | record
        (folder / "case.json").write_text(json.dumps(record))
        return folder

    return write


def changed(name, value):
    return WANT | {name: np.asarray(value, WANT[name].dtype)}


def test_equal_outputs_pass_with_zero_error(cases, backend):
    result = run_case(cases("same"), backend)
    assert (result.passed, result.max_abs, result.max_rel) == (True, 0, 0)
    assert (result.case, result.backend, result.message) == ("same", backend.name, "")


def test_an_error_within_the_tolerance_passes_and_is_reported(cases, backend):
    result = run_case(cases("near", changed("a", [1, -2, 4.0008])), backend)
    assert result.passed
    assert result.max_abs == pytest.approx(8e-4, rel=1e-2)
    assert result.max_rel == pytest.approx(2e-4, rel=1e-2)


@pytest.mark.parametrize(
    "got, message",
    [
        (changed("a", [1, -2, 4.002]), r"'a' is off by 2.0e-03 at \[2\]"),
        (changed("a", [1, np.nan, 4]), "'a' has 1 NaN of 3"),
        (changed("a", [[1, -2, 4]]), r"'a' has shape \[1, 3\] instead of \[3\]"),
        ({"a": WANT["a"]}, "'b.0' is missing"),
        ({"c": WANT["a"]}, r"is missing \(2 of 2 outputs fail\)"),
        (changed("a", [np.inf, -2, 4]), r"'a' is off by inf at \[0\]"),
    ],
)
def test_a_wrong_output_fails_and_is_named(cases, backend, got, message):
    result = run_case(cases("bad", got), backend)
    assert not result.passed
    assert re.search(message, result.message)


def test_outputs_that_are_not_stored_are_ignored(cases, backend):
    assert run_case(cases("more", WANT | {"extra": WANT["a"]}), backend).passed


def test_tolerance_is_relative_to_each_stored_value():
    record = {"tolerance": {"rtol": 0.01, "atol": 0.0}}
    stored, got = np.array([1.0, 100.0]), np.array([1.005, 100.9])
    assert compare(record, {"x": stored}, {"x": got})[0].excess == pytest.approx(0.9)
    assert compare(record, {"x": stored}, {"x": np.array([1.02, 100])})[0].problem


def test_the_longest_matching_prefix_sets_the_tolerance():
    special = {"block.": {"atol": 0.1}, "block.1": {"atol": 0.5}}
    record = {"tolerance": {"rtol": 0.0, "atol": 1e-6, "per_output": special}}
    stored = {name: np.zeros(2) for name in ("x", "block.0", "block.12")}
    got = {name: np.full(2, 0.2) for name in stored}
    problems = [bool(d.problem) for d in compare(record, stored, got)]
    assert problems == [True, True, False]


def test_exact_outputs_must_be_equal_whatever_the_tolerance():
    record = {"tolerance": {"rtol": 0.0, "atol": 5.0}, "exact_outputs": ["ids"]}
    stored = {"ids": np.array([3, 4]), "other": np.array([3, 4])}
    got = {name: value + 1 for name, value in stored.items()}
    assert [bool(d.problem) for d in compare(record, stored, got)] == [True, False]


def test_a_bad_case_is_a_failure_and_the_next_one_still_runs(cases, tmp_path, capsys):
    cases("a", settings={"fail": True})
    cases("b", kind="test.ecko")
    (cases("c") / "case.json").write_text("{")
    (cases("d") / "outputs.safetensors").unlink()
    cases("e")
    report = tmp_path / "deep" / "report.json"
    assert main([str(tmp_path), "--device", "cpu", "--json", str(report)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL" in lines[1] and "ZeroDivisionError: first line" in lines[1]
    assert "component 'test.ecko' is unknown; did you mean 'test.echo'?" in lines[2]
    assert "JSONDecodeError" in lines[3] and "FileNotFoundError" in lines[4]
    assert lines[5].split()[2:7] == ["0.0e+00", "0.0e+00", "0.0e+00", "1.0e-03", "pass"]
    assert "1 of 5 cases pass" in lines[6]
    stored = json.loads(report.read_text())["cases"]
    assert [c["passed"] for c in stored] == [False] * 4 + [True]
    assert stored[0]["max_abs"] is None
    assert {"case", "backend", "passed", "max_abs", "max_rel", "seconds"} <= set(stored[4])
    assert [path.name for path in report.parent.iterdir()] == ["report.json"]


def test_all_backends_run_the_chosen_cases(cases, tmp_path, capsys, backend):
    cases("one__x"), cases("one__y"), cases("two__x")
    arguments = ["--backend", "all", "--backend", backend.name, "--device", "cpu"]
    assert main([str(tmp_path), *arguments, "--case", "one__*"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "pass " in line]
    assert ["one__x", backend.name] in rows and ["one__y", backend.name] in rows
    assert not any(row[0] == "two__x" for row in rows)
    assert len({tuple(row) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere has no folder 'cases'"),
        ([".", "--case", "ona"], "no case matches 'ona'; did you mean 'one'?"),
        ([".", "--backend", "jax"], "backend=jax is unknown; use torch or mlx"),
        ([".", "--device", "tpu"], "device=tpu is not available here"),
        ([".", "--json", "cases"], "--json cases is a folder"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_two(
    cases, tmp_path, monkeypatch, capsys, arguments, message
):
    cases("one")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1


def test_an_empty_folder_of_cases_says_so(tmp_path, capsys):
    (tmp_path / "cases").mkdir()
    assert main([str(tmp_path)]) == 2
    assert "each case is a folder with a case.json" in capsys.readouterr().err


def test_cases_are_sorted_and_listed_once(golden):
    names = [path.name for path in find_cases(golden, ["step__*", "loop__*", "step__updates"])]
    assert names == sorted(set(names))
    assert "step__updates" in names and "loop__euler" in names


def test_the_module_runs_as_a_command(golden):
    command = [sys.executable, "-m", "ltx2.parity", str(golden), "--case", "positions__*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 cases pass" in done.stdout
