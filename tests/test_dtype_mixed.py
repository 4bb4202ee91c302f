"""No product of the pipelines mixes dtypes, and the debug mode that says so does raise."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_backend

from ltx2 import ops
from ltx2.app.compose import compose
from ltx2.backends.mixed import MixedDtypes, no_mixed_products
from ltx2.experiment.run import generate

RUN = ["cache=off", "frames=9", "scheduler.steps=2", "height=128", "width=128"]
RUNS = [
    ("two_stage", "bf16", []),
    ("two_stage", "fp32", []),
    ("image", "bf16", ["quant=int8", "quant.text=int8"]),
]


def arrays(backend, *dtypes):
    shapes = [(2, 3), (4, 3), (4,)]
    return [backend.array(np.ones(s, np.float32), d) for s, d in zip(shapes, dtypes, strict=True)]


@pytest.mark.parametrize("dtypes", [("bf16", "fp32", "fp32"), ("fp32", "fp32", "bf16")])
def test_a_mixed_product_is_named_with_its_shapes(backend, dtypes):
    x, weight, bias = arrays(backend, *dtypes)
    names = {"bf16": "bfloat16", "fp32": "float32"}
    first, second, third = (names[dtype] for dtype in dtypes)
    line = rf"linear of different dtypes: {first} \[2, 3\], {second} \[4, 3\], {third} \[4\]"
    with no_mixed_products(), pytest.raises(MixedDtypes, match=line):
        ops.linear(x, weight, bias)


def test_mixed_keys_and_kernels_are_noticed_too(backend):
    q = backend.array(np.ones((1, 1, 2, 4), np.float32), "bf16")
    k = backend.array(np.ones((1, 1, 2, 4), np.float32))
    x, weight = (backend.array(np.ones(s, np.float32)) for s in ((1, 5, 2), (3, 2, 1)))
    half = backend.array(
        np.ones((1, 5, 2), np.float32), "fp16" if backend.name == "mlx" else "bf16"
    )
    with no_mixed_products():
        with pytest.raises(MixedDtypes, match="attention of different dtypes: bfloat16"):
            ops.attention(q, k, k)
        with pytest.raises(MixedDtypes, match="conv of different dtypes"):
            ops.conv1d(half, backend.place(weight, "fp32", "conv"))
        assert ops.conv1d(x, backend.place(weight, "fp32", "conv")).shape == (1, 5, 3)


def test_the_mode_ends_with_its_block(backend):
    x, weight, bias = arrays(backend, "fp32", "fp32", "fp32")
    with pytest.raises(ZeroDivisionError), no_mixed_products():
        raise ZeroDivisionError
    np.testing.assert_array_equal(backend.numpy(ops.linear(x, weight, bias)), np.full((2, 4), 4.0))
    assert type(ops._of(x)).__name__ == "module"


@pytest.mark.parametrize("name", ["torch", "mlx"])
@pytest.mark.parametrize(("run", "dtype", "more"), RUNS)
def test_no_product_of_a_whole_run_mixes_dtypes(tmp_path, name, run, dtype, more):
    settings = compose([f"experiment=pocket_{run}", *RUN, f"dtype={dtype}", *more])
    with no_mixed_products():
        generate(settings, lambda: make_backend(name), tmp_path)
