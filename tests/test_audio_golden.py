"""Audio components reproduce the recorded cases on both backends."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN

import ltx2.parity.audio  # noqa: F401  (registers the components)
from ltx2.parity.registry import RUNNERS, Case, tolerance

CASES = sorted(folder.name for folder in (GOLDEN / "cases").glob("audio__*"))


@pytest.mark.parametrize("name", CASES)
def test_case_is_reproduced(name, backend, golden):
    case = Case(golden / "cases" / name, backend)
    got = RUNNERS[case.component](case)
    assert set(got) == set(case.outputs)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)
