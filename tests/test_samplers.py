"""Update steps and sampling loops equal the reference; rounding, order and options."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

import ltx2.parity.diffusion  # noqa: F401  (registers the runners)
from ltx2 import ops
from ltx2.diffusion.loop import Denoised, denoise
from ltx2.diffusion.noise import TorchNoise
from ltx2.diffusion.res2s import Res2s, _refined
from ltx2.diffusion.samplers import (
    SAMPLERS,
    CfgPlusPlus,
    Euler,
    EulerAncestral,
    GradientEstimation,
    make_sampler,
)
from ltx2.diffusion.state import LatentState, blend, freeze, noised, timesteps
from ltx2.diffusion.steps import ancestral_step, euler_step
from ltx2.errors import UserError
from ltx2.parity.registry import RUNNERS, Case, tolerance

CASES = Path(__file__).parent / "golden" / "cases"
SPEC = json.loads((Path(__file__).parent / "data" / "golden_spec.json").read_text())
RECORDED = sorted(p.name for g in ("step__*", "loop__*", "noise__*") for p in CASES.glob(g))
SIGMAS = (1.0, 0.9, 0.6, 0.55, 0.3, 0.0)


class Zeros:
    """A noise source without noise."""

    def normal(self, shape, dtype="float32"):
        return np.zeros(shape, dtype)


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The deterministic content of the published toy problems."""
    j, c = np.arange(np.prod(shape)), zlib.crc32(name.encode()) % 1000
    values = np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j / j.size * c)
    return values.reshape(shape).astype(np.float32)


def toy(backend, name: str, tokens: int, mask: list[float], dtype: str = "fp32") -> LatentState:
    shape = (1, tokens, 4)
    x, c = (backend.array(fill(f"{k}.{name}", shape), dtype) for k in "xc")
    positions = np.zeros((1, 1, tokens, 2), np.float32)
    held = np.array(mask, np.float32).reshape(1, tokens, 1)
    return LatentState(x, c, held, positions, target_tokens=tokens)


def toys(backend, dtype: str = "fp32"):
    video = toy(backend, "video", 6, [0, 0, 0.3, 1, 1, 1], dtype)
    return video, toy(backend, "audio", 5, [1] * 5, dtype)


def toy_denoiser(video, audio, sigma, step):
    def shape(state):
        return ops.tanh(state.latent) * (1 - 0.3 * sigma) + 0.1

    v = None if video is None else shape(video)
    a = None if audio is None else shape(audio)
    return Denoised(
        v,
        None if a is None else 0.7 * a,
        None if v is None else 0.9 * v,
        None if a is None else 0.5 * a,
    )


def run(sampler, states, sigmas=SIGMAS):
    *_, last = denoise(sampler, states, sigmas, toy_denoiser)
    return last


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_equal_the_recording(name, backend):
    case = Case(CASES / name, backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


PUBLISHED = {
    "euler": lambda: Euler(),
    "gradient_estimation": lambda: GradientEstimation(),
    "ancestral_eta1_seed7": lambda: EulerAncestral(TorchNoise(7)),
    "ancestral_eta0.5_seed7": lambda: EulerAncestral(TorchNoise(7), eta=0.5),
    "ancestral_eta1_zero_noise": lambda: EulerAncestral(Zeros()),
    "res2s_seed5": lambda: Res2s(TorchNoise(5), TorchNoise(10005)),
    "res2s_zero_noise": lambda: Res2s(Zeros(), Zeros()),
    "cfgpp_seed7": lambda: CfgPlusPlus(TorchNoise(7)),
    "cfgpp_zero_noise": lambda: CfgPlusPlus(Zeros()),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_toy_problem_ends_at_the_published_values(name, backend):
    last, want = run(PUBLISHED[name](), toys(backend)), SPEC[f"sampler/{name}"]
    for state, key in ((last.video, "video"), (last.audio, "audio")):
        got = backend.numpy(state.latent).ravel()
        np.testing.assert_allclose(got, want[key], rtol=0, atol=2e-6, err_msg=key)


def test_initial_noise_equals_the_published_values(backend):
    state = toy(backend, "video", 6, [0, 0, 0.3, 1, 1, 1])
    got = noised(state, TorchNoise(10).normal((1, 6, 4)), 0.909375)
    want = SPEC["noiser/seed10_scale0.909375"]
    np.testing.assert_allclose(backend.numpy(got.latent).ravel(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kept_tokens_end_clean_and_dtypes_stay(name, dtype, backend):
    states = toys(backend, dtype)
    last = run(make_sampler(name, seed=1), states)
    assert last.video.latent.dtype == states[0].latent.dtype
    kept, clean = backend.numpy(last.video.latent)[:, :2], backend.numpy(states[0].clean)[:, :2]
    # Euler's last step reaches the estimate only up to rounding, as in the reference.
    np.testing.assert_allclose(kept, clean, rtol=1e-5 if dtype == "fp32" else 2**-7)
    assert np.isfinite(backend.numpy(last.audio.latent)).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_absent_stream_stays_absent_and_a_frozen_one_unchanged(name, backend):
    video, audio = toys(backend)
    assert run(make_sampler(name, seed=1), (None, audio)).video is None
    last = run(make_sampler(name, seed=1), (video, freeze(audio)))
    np.testing.assert_array_equal(backend.numpy(last.audio.latent), backend.numpy(audio.clean))
    assert audio.sigmas(0.5) == [0.5] and freeze(audio).sigmas(0.5) == [0.0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_model_calls_and_steps_are_what_the_sampler_announces(name, backend):
    seen = []

    def counting(video, audio, sigma, step):
        seen.append((sigma, step))
        return toy_denoiser(video, audio, sigma, step)

    sampler = make_sampler(name, seed=1)
    steps = list(denoise(sampler, toys(backend), SIGMAS, counting))
    assert len(seen) == sampler.model_calls(SIGMAS)
    assert [s.index for s in steps] == list(range(len(steps)))
    assert [s.sigma for s in steps[:5]] == list(SIGMAS[:-1]) and steps[-1].sigma_next == 0
    assert {step for _, step in seen} == {s.index for s in steps}


def test_the_euler_velocity_is_rounded_to_the_state_dtype():
    torch = pytest.importorskip("torch")
    x, denoised = (torch.from_numpy(fill(n, (1, 40, 4))).bfloat16() for n in "xd")
    velocity = ((x.float() - denoised.float()) / 0.9).bfloat16().float()
    want = (x.float() + velocity * (0.3 - 0.9)).bfloat16()
    assert torch.equal(euler_step(x, denoised, 0.9, 0.3), want)
    unrounded = (x.float() + (x.float() - denoised.float()) / 0.9 * (0.3 - 0.9)).bfloat16()
    assert not torch.equal(want, unrounded), "the numbers must tell the two apart"


def test_ancestral_without_eta_is_euler(backend):
    x, d = backend.array(fill("x", (1, 5, 4))), backend.array(fill("d", (1, 5, 4)))
    got = ancestral_step(x, d, 0.9, 0.6, eta=0.0)
    np.testing.assert_allclose(
        backend.numpy(got), backend.numpy(euler_step(x, d, 0.9, 0.6)), rtol=0, atol=3e-7
    )


def test_refinement_is_where_a_hundred_repetitions_end():
    y, d, anchor = np.float64(0.7), np.float64(-1.3), np.float64(5.0)
    for weight in (0.01, 0.1, 0.2212):
        point = anchor
        for _ in range(100):
            point = y - weight * (d - point)
        assert _refined(y, d, weight) == pytest.approx(point, abs=1e-12)


def test_a_partly_kept_token_is_told_its_own_noise_level(backend):
    video, _ = toys(backend)
    want = [[0, 0, 0.24, 0.8, 0.8, 0.8]]
    np.testing.assert_allclose(timesteps(video, 0.8), want, rtol=1e-6)


def test_blending_puts_kept_tokens_back(backend):
    video, _ = toys(backend)
    got = backend.numpy(blend(video.latent * 0, video))
    want = backend.numpy(video.clean) * (1 - video.mask)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_seeds_of_sampler_noise_follow_the_reference():
    ancestral = make_sampler("euler_ancestral", seed=10, options={"eta": 0.5})
    assert (ancestral.noise.seed, ancestral.eta) == (10010, 0.5)
    second = make_sampler("res_2s", seed=10)
    assert (second.step_noise.seed, second.substep_noise.seed) == (-1, 9999)
    second = make_sampler("res_2s", seed=10, noise_seed=3)
    assert (second.step_noise.seed, second.substep_noise.seed) == (3, 4)


def test_unknown_samplers_and_options_are_refused_by_name():
    with pytest.raises(UserError, match=r"'eulr' is not one of .* did you mean 'euler'"):
        make_sampler("eulr", seed=1)
    with pytest.raises(UserError, match=r"'euler' has no option 'eta'; its options: none"):
        make_sampler("euler", seed=1, options={"eta": 1.0})
    with pytest.raises(UserError, match=r"no option 'noise'; its options: eta, s_noise"):
        make_sampler("cfg_pp", seed=1, options={"noise": 3})
    with pytest.raises(UserError, match="noise_seed=4 has no effect"):
        make_sampler("euler", seed=1, noise_seed=4)


def test_cfg_pp_needs_the_unconditional_estimate(backend):
    def conditioned_only(video, audio, sigma, step):
        full = toy_denoiser(video, audio, sigma, step)
        return Denoised(full.video, full.audio)

    with pytest.raises(UserError, match="cfg_pp needs guidance"):
        list(denoise(CfgPlusPlus(Zeros()), toys(backend), SIGMAS, conditioned_only))
