"""The transformer, positions, token order and embeddings reproduce the recorded cases."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN

import ltx2.parity.positions
import ltx2.parity.transformer
from ltx2.parity.registry import RUNNERS, Case, tolerance
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.weights.header import read_header

AREAS = ("transformer", "positions", "patchify", "rope", "timestep")
CASES = sorted(f.name for area in AREAS for f in (GOLDEN / "cases").glob(f"{area}__*"))


@pytest.mark.parametrize("name", CASES)
def test_case_is_reproduced(name, backend, golden):
    case = Case(golden / "cases" / name, backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_one_stream_of_a_whole_transformer_equals_the_recording(stream, backend, golden):
    """The recorded cases load one stream only; here both are loaded and one is given."""
    case = Case(golden / "cases" / f"transformer__ltx23_{stream}_only", backend)
    transformer = load_transformer(read_header(case.checkpoints[0]), backend, "fp32")
    got = ltx2.parity.transformer.run_forward(case, transformer)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


def test_tables_stored_in_float32_take_the_dtype_of_the_component(backend, golden):
    header = read_header(golden / "checkpoints" / "ltx-2.3-tiny.safetensors")
    transformer = load_transformer(header, backend, "bf16")
    expected = transformer.patchify_proj.weight.dtype
    assert header.tensors["model.diffusion_model.scale_shift_table"].dtype == "F32"
    assert transformer.scale_shift_table.dtype == expected
    block = transformer.transformer_blocks[0]
    assert block.scale_shift_table_a2v_ca_audio.dtype == expected
