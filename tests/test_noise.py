"""Host noise equals PyTorch's CPU generator; recorded noise comes back in order."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2.diffusion.noise import Replay, TorchNoise, standardised
from ltx2.parity.registry import Case

SIZES = (1, 2, 15, 16, 17, 20, 24, 31, 32, 33, 128, 1000, 3, 4096)
LIMIT = {"float32": 1e-6, "float64": 1e-14}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 10, 9999, -1, 2**32 + 7, 2**63 - 1])
def test_a_sequence_of_draws_equals_torch(seed, dtype):
    torch = pytest.importorskip("torch")
    generator, noise = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for size in SIZES:
        want = torch.randn(1, size, generator=generator, dtype=getattr(torch, dtype)).numpy()
        got = noise.normal((1, size), dtype)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=LIMIT[dtype], err_msg=str(size))


def test_the_second_of_a_pair_of_single_draws_survives_a_large_draw():
    torch = pytest.importorskip("torch")
    generator, noise = torch.Generator().manual_seed(4), TorchNoise(4)
    for size, dtype in ((3, "float32"), (64, "float64"), (1, "float64"), (5, "float32")):
        want = torch.randn(size, generator=generator, dtype=getattr(torch, dtype)).numpy()
        np.testing.assert_allclose(noise.normal((size,), dtype), want, rtol=0, atol=1e-6)


def test_seed_ten_starts_with_the_published_values():
    noise = TorchNoise(10)
    first = noise.normal((1, 6, 128)).ravel()[:6]
    second = noise.normal((1, 4, 128)).ravel()[:4]
    published = [-0.8173, -0.5556, -0.8267, -1.2970, -0.1974, -0.9643]
    np.testing.assert_allclose(first, published, atol=5e-5)
    np.testing.assert_allclose(second, [1.3431, 1.7700, 0.3830, -0.3053], atol=5e-5)


@pytest.mark.parametrize("name", ["loop__res2s", "loop__cfg_pp", "noise__gaussian_and_mask"])
def test_recorded_draws_of_the_reference_follow_from_their_seeds(name, golden):
    case = Case(golden / "cases" / name, backend=None)
    sources: dict[str, TorchNoise] = {}
    for draw in case.settings["draws"]:
        source = sources.setdefault(draw["generator"], TorchNoise(draw["seed"]))
        got = source.normal(draw["shape"], draw["dtype"])
        np.testing.assert_allclose(got, case.inputs[draw["name"]], rtol=0, atol=1e-6)


def test_a_bfloat16_draw_of_torch_is_the_float32_draw_rounded():
    torch = pytest.importorskip("torch")
    want = torch.randn(2, 128, generator=torch.Generator().manual_seed(3), dtype=torch.bfloat16)
    got = torch.from_numpy(TorchNoise(3).normal((2, 128))).bfloat16()
    assert torch.equal(got, want)


def test_only_the_low_32_bits_of_the_seed_count():
    np.testing.assert_array_equal(TorchNoise(-1).normal((40,)), TorchNoise(2**64 - 1).normal((40,)))


def test_recorded_draws_come_back_in_order_and_are_checked():
    replay = Replay([np.zeros((2, 3)), np.ones((1, 4))])
    np.testing.assert_array_equal(replay.normal((2, 3)), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"recorded draw 1 is \(1, 4\), wanted \(4, 1\)"):
        replay.normal((4, 1))
    np.testing.assert_array_equal(replay.normal((1, 4), "float64"), np.ones((1, 4)))
    with pytest.raises(IndexError, match="all 2 recorded draws"):
        replay.normal((1, 4))


def test_standardised_noise_has_mean_zero_and_deviation_one_per_sample():
    noise = standardised(TorchNoise(1).normal((2, 9, 6), "float64") * 3 + 5)
    np.testing.assert_allclose(noise.mean(axis=(1, 2)), 0, atol=1e-14)
    np.testing.assert_allclose(noise.std(axis=(1, 2), ddof=1), 1, atol=1e-14)
    np.testing.assert_array_equal(standardised(np.full((1, 2, 2), 7.0)), np.zeros((1, 2, 2)))
