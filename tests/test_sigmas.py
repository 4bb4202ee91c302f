"""Schedules equal the reference's values; a list that cannot work is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaincinv

import ltx2.parity.diffusion  # noqa: F401  (registers the runners)
from ltx2.diffusion.sigmas import (
    DISTILLED,
    STAGE_2,
    beta_quantile,
    beta_sigmas,
    linear_quadratic_sigmas,
    ltx2_sigmas,
    validate_sigmas,
)
from ltx2.errors import UserError
from ltx2.parity.registry import RUNNERS, Case, tolerance

TABLE_8 = [1, 0.965712, 0.921875, 0.863856, 0.783445, 0.664579, 0.471003, 0.1, 0]
TABLE_15 = [1, 0.987250, 0.972823, 0.956368, 0.937421, 0.915374, 0.889394, 0.858329]
TABLE_15 += [0.820523, 0.773514, 0.713477, 0.634123, 0.524345, 0.362494, 0.1, 0]


@pytest.mark.parametrize("name", ["ltx2", "linear_quadratic", "beta", "distilled"])
def test_schedules_equal_the_recording(name, golden, backend):
    case = Case(golden / "cases" / f"scheduler__{name}", backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


@pytest.mark.parametrize("table", [TABLE_8, TABLE_15])
def test_the_usual_schedule_equals_the_published_table(table):
    np.testing.assert_allclose(ltx2_sigmas(len(table) - 1), table, atol=5e-7)


def test_more_tokens_keep_the_levels_higher():
    few, usual, many = (np.array(ltx2_sigmas(10, tokens=n)) for n in (1024, 4096, 24576))
    assert (few[1:9] < usual[1:9]).all() and (usual[1:9] < many[1:9]).all()
    assert few[9] == usual[9] == many[9] == np.float32(0.1)


@pytest.mark.parametrize("steps", [1, 2, 8, 15, 30, 40])
@pytest.mark.parametrize("schedule", [ltx2_sigmas, linear_quadratic_sigmas, beta_sigmas])
def test_every_schedule_is_valid_and_has_one_level_more_than_steps(schedule, steps):
    sigmas = schedule(steps)
    assert validate_sigmas(sigmas) == sigmas
    assert sigmas[0] == 1 and len(sigmas) == steps + 1


def test_the_distilled_list_is_linear_quadratic_and_stage_2_is_its_end():
    np.testing.assert_allclose(linear_quadratic_sigmas(8), DISTILLED, atol=1e-7)
    assert DISTILLED[5:] == STAGE_2


@pytest.mark.parametrize("alpha,beta", [(0.6, 0.6), (0.5, 0.9), (2.5, 0.3), (4.0, 3.0)])
def test_beta_quantiles_equal_scipy(alpha, beta):
    for probability in (0.0, 0.01, 0.3, 0.5, 0.77, 0.99, 1.0):
        want = betaincinv(alpha, beta, probability)
        assert beta_quantile(probability, alpha, beta) == pytest.approx(want, abs=1e-11)


@pytest.mark.parametrize(
    "sigmas,complaint",
    [
        ([1.0, 0.5], "end with 0"),
        ([0.0], "at least two"),
        ([1.2, 0.5, 0.0], r"starts at 1.2; start in \(0, 1\]"),
        ([1.0, 0.5, 0.5, 0.0], r"value 3 \(0.5\) follows 0.5"),
        ([1.0, 0.4, 0.6, 0.0], r"value 3 \(0.6\) follows 0.4"),
        ([1.0, float("nan"), 0.0], r"value 2 \(nan\) follows 1"),
    ],
)
def test_a_list_that_cannot_work_is_refused_with_its_values(sigmas, complaint):
    with pytest.raises(UserError, match=complaint):
        validate_sigmas(sigmas)


@pytest.mark.parametrize("schedule", [ltx2_sigmas, linear_quadratic_sigmas, beta_sigmas])
def test_no_steps_are_refused(schedule):
    with pytest.raises(UserError, match="steps=0"):
        schedule(0)
