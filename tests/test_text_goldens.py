"""The text path reproduces the recorded values of the reference on both backends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ltx2.parity.text  # noqa: F401  (registers the runners)
from ltx2.parity.registry import RUNNERS, Case, tolerance

CASES = Path(__file__).parent / "golden" / "cases"
PATTERNS = ("text__*", "duration__head")


@pytest.mark.parametrize("name", sorted(p.name for g in PATTERNS for p in CASES.glob(g)))
def test_outputs_equal_the_recording(name, backend):
    case = Case(CASES / name, backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)
