"""What training needs of the torch backend: ops that autograd follows, with the same results."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ltx2 import ops  # noqa: E402
from ltx2.backends.torch_attention import product_attention  # noqa: E402


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["edge", "reflect", "zeros", "circular"])
def test_padding_is_the_same_with_and_without_gradients(mode):
    x = torch.from_numpy(draw(2, 4, 5, 3))
    widths, modes = [(0, 0), (2, 1), (1, 1), (0, 0)], ("zeros", mode, mode, "zeros")
    plain = ops.pad(x, widths, modes)
    followed = ops.pad(x.clone().requires_grad_(), widths, modes)
    assert followed.requires_grad
    assert torch.equal(plain, followed.detach())


def test_gradients_of_padding_count_every_copy():
    x = torch.ones(1, 3, 1, requires_grad=True)
    ops.pad(x, [(0, 0), (2, 1), (0, 0)], ("zeros", "edge", "zeros")).sum().backward()
    assert x.grad.flatten().tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_as_products_is_the_fused_one(causal, with_bias):
    q, k, v = (torch.from_numpy(draw(2, 4, 6, 8, seed=i)) for i in range(3))
    bias = torch.from_numpy(draw(1, 1, 6, 6, seed=3)) if with_bias else None
    expected = ops.attention(q, k, v, bias, causal=causal)
    found = product_attention(q, k, v, bias, causal, 8**-0.5)
    assert float((found - expected).abs().max()) < 1e-6


def test_attention_as_products_shares_keys_between_heads():
    q, k, v = (torch.from_numpy(draw(1, n, 5, 8, seed=n)) for n in (4, 2, 2))
    expected = ops.attention(q, k, v)
    assert float((product_attention(q, k, v, None, False, 8**-0.5) - expected).abs().max()) < 1e-6


def test_gradients_in_bfloat16_are_those_in_float32():
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.from_numpy(draw(1, 2, 7, 8, seed=i)).to(dtype) for i in range(3))
        q.requires_grad_()
        ops.attention(q, k, v).float().square().sum().backward()
        gradients.append(q.grad.float())
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert float(error) < 0.02
