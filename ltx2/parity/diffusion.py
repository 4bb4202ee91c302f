"""Golden components of schedules, update steps, sampling loops, noise and guidance."""

from __future__ import annotations

from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion import deltas, sigmas, steps
from ltx2.diffusion.guidance import Guidance, GuidanceSchedule, combine
from ltx2.diffusion.loop import Denoised, Sampler, denoise, each
from ltx2.diffusion.noise import NoiseSource, Replay
from ltx2.diffusion.res2s import Res2s
from ltx2.diffusion.samplers import CfgPlusPlus, Euler, EulerAncestral, GradientEstimation
from ltx2.diffusion.state import LatentState, blend, noised, timesteps
from ltx2.parity.registry import Case, Outputs, component


@component("scheduler.ltx2")
def ltx2_schedule(case: Case) -> Outputs:
    """Shifted schedules for several step counts and latent sizes."""
    defaults = dict(case.settings.get("defaults", {}))
    usual = defaults.pop("tokens_without_latent", 4096)
    result = {}
    for entry in case.settings["cases"]:
        options = defaults | entry
        index, grid = options.pop("index"), options.pop("latent_grid", None)
        tokens = usual if grid is None else int(np.prod(grid))
        result[f"sigmas.{index}"] = _float32(sigmas.ltx2_sigmas(tokens=tokens, **options))
    return result


@component("scheduler.linear_quadratic")
def linear_quadratic_schedule(case: Case) -> Outputs:
    """Linear, then quadratic schedules."""
    threshold, custom = case.settings["threshold_noise"], case.settings.get("custom")
    result = {
        f"sigmas.{n}": _float32(sigmas.linear_quadratic_sigmas(n, threshold))
        for n in case.settings["steps"]
    }
    if custom:
        values = sigmas.linear_quadratic_sigmas(
            custom["steps"],
            custom.get("threshold_noise", threshold),
            custom.get("linear_steps"),
        )
        result["sigmas.custom"] = _float32(values)
    return result


@component("scheduler.beta")
def beta_schedule(case: Case) -> Outputs:
    """Schedules at quantiles of a beta distribution."""
    settings = case.settings
    table = {"shift": settings["shift"], "length": settings["table_length"]}
    usual = {"alpha": settings["alpha"], "beta": settings["beta"]}
    result = {
        f"sigmas.{n}": _float32(sigmas.beta_sigmas(n, **usual, **table)) for n in settings["steps"]
    }
    if custom := settings.get("custom"):
        result["sigmas.custom"] = _float32(sigmas.beta_sigmas(**(usual | table | custom)))
    return result


@component("scheduler.distilled")
def distilled_schedules(case: Case) -> Outputs:
    """The fixed lists."""
    return {
        "stage_1": _float32(sigmas.DISTILLED),
        "stage_2": _float32(sigmas.STAGE_2),
        "stage_2_tiled": _float32(sigmas.STAGE_2_TILED),
    }


def _float32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


@component("diffusion_step")
def diffusion_step(case: Case) -> Outputs:
    """Single updates of every sampler, their coefficients, and velocity conversions."""
    x, denoised, uncond = (case.array(n) for n in ("sample", "denoised", "uncond"))
    noise = case.array("noise")
    levels = [float(s) for s in case.inputs["sigmas"]]
    result = {
        "velocity": steps.to_velocity(x, denoised, levels[1]),
        "denoised": steps.to_denoised(x, uncond, levels[2]),
        "denoised_per_token": steps.to_denoised(x, uncond, case.array("per_token_sigma")),
    }
    for name, options in case.settings["variants"].items():
        kept = {k: v for k, v in options.items() if k != "noise"}
        for i in case.settings["step_indices"]:
            s, n = levels[i], levels[i + 1]
            if name.startswith("euler"):
                y = steps.euler_step(x, denoised, s, n)
            elif name.startswith("ancestral"):
                y = steps.ancestral_step(x, denoised, s, n, noise, **kept)
            elif name.startswith("cfg_pp"):
                y = steps.cfg_pp_step(x, denoised, uncond, s, n, noise, **kept)
            else:
                y = steps.sde_step(x, denoised, s, n, noise, **kept)
            result[f"{name}.{i}"] = y
    host = {name: case.numpy(value) for name, value in result.items()}
    return host | _coefficients(case.settings)


def _coefficients(settings: dict[str, Any]) -> Outputs:
    sde = settings["sde"]
    up = np.asarray(sde["sigma_up"], np.float64)
    alpha, down = steps.sde_coefficients(sde["sigma_next"], up)
    return {
        "res2s_coefficients": np.array([steps.res2s_coefficients(h) for h in settings["res2s_h"]]),
        "sde_coefficients": np.stack([alpha, down, up], -1).astype(np.float32),
    }


@component("sampler_loop")
def sampler_loop(case: Case) -> Outputs:
    """A whole loop with an analytic denoiser and recorded noise."""
    states = (_loop_state(case, "video"), _loop_state(case, "audio"))
    noise = Replay(case.inputs[k] for k in sorted(case.inputs) if k.startswith("noise."))
    sampler = _loop_sampler(case.settings, noise)

    def denoiser(
        video: LatentState | None, audio: LatentState | None, sigma: float, step: int
    ) -> Denoised:
        scales = (case.settings.get("video_abc"), case.settings.get("audio_abc"))
        estimates = each(lambda s, abc: _analytic(s.latent, sigma, *abc), (video, audio), scales)
        free = each(lambda s, abc: 0.5 * abc[0] * s.latent - abc[1] * sigma, (video, audio), scales)
        return Denoised(*estimates, *free)

    *_, last = denoise(sampler, states, case.inputs["sigmas"].tolist(), denoiser)
    ends = {"video": last.video, "audio": last.audio}
    return {name: case.numpy(state.latent) for name, state in ends.items() if state is not None}


def _analytic(x: Any, sigma: float, a: float, b: float, c: float) -> Any:
    return a * x + b * sigma + c * ops.sin(x)


def _loop_state(case: Case, name: str) -> LatentState | None:
    if name not in case.inputs:
        return None
    return _bare_state(case.array(name), case.array(f"{name}_clean"), case.inputs[f"{name}_mask"])


def _bare_state(latent: Any, clean: Any, mask: np.ndarray) -> LatentState:
    batch, tokens, _ = latent.shape
    positions = np.zeros((batch, 1, tokens, 2), np.float32)
    return LatentState(latent, clean, mask, positions, target_tokens=tokens)


def _loop_sampler(settings: dict[str, Any], noise: NoiseSource) -> Sampler:
    loop = settings["loop"]
    given = {k: settings[k] for k in ("eta", "s_noise") if k in settings}
    if loop.startswith("res2s"):
        refine, masked = settings.get("bongmath", True), not settings.get("legacy_mode", True)
        return Res2s(noise, noise, refine=refine, masked_sigma=masked, **given)
    if loop.startswith("euler_ancestral"):
        return EulerAncestral(noise, **given)
    if loop.startswith("cfg_pp"):
        return CfgPlusPlus(noise, **given)
    if loop.startswith("gradient_estimation"):
        return GradientEstimation(settings["ge_gamma"])
    return Euler()


@component("noiser")
def noiser(case: Case) -> Outputs:
    """Initial noise at several scales, blending, per-token timesteps."""
    state = _bare_state(case.array("latent"), case.array("clean"), case.inputs["mask"])
    result = {
        f"noised.{i}": case.numpy(noised(state, case.inputs[f"noise.{i:03}"], scale).latent)
        for i, scale in enumerate(case.settings["noise_scales"])
    }
    scalar = timesteps(state, case.settings["timesteps_scalar_sigma"])
    return result | {
        "blended": case.numpy(blend(case.array("denoised"), state)),
        "timesteps_scalar": scalar[..., None],
        "timesteps_batch": timesteps(state, case.inputs["sigma_batch"])[..., None],
    }


@component("guider.multimodal")
def multimodal(case: Case) -> Outputs:
    """Text, skip and modality guidance together."""
    estimates = [case.array(n) for n in ("cond", "uncond", "perturbed", "isolated")]
    return {
        f"prediction.{i}": case.numpy(combine(_guidance(v), *estimates))
        for i, v in enumerate(case.settings["variants"])
    }


def _guidance(scales: dict[str, float]) -> Guidance:
    return Guidance(
        cfg=scales.get("cfg_scale", 1.0),
        stg=scales.get("stg_scale", 0.0),
        rescale=scales.get("rescale_scale", 0.0),
        modality=scales.get("modality_scale", 1.0),
    )


@component("guider.schedule")
def schedule(case: Case) -> Outputs:
    """Scales by noise level, and which steps are skipped."""
    settings = case.settings
    bins = {float(key): _guidance(scales) for key, scales in settings["bins"].items()}
    at = [GuidanceSchedule(bins).at(sigma) for sigma in settings["probe_sigmas"]]
    skipped = [
        [Guidance(skip_step=k).skips(step) for step in range(settings["steps"])]
        for k in settings["skip_step"]
    ]
    return {
        "cfg_scale_at_probe": _float32([g.cfg for g in at]),
        "stg_scale_at_probe": _float32([g.stg for g in at]),
        "skipped": np.array(skipped, np.int64),
    }


@component("guider.delta")
def delta(case: Case) -> Outputs:
    """Single-term guidance rules; the projected ones see the first sample only."""
    settings = case.settings
    cond, uncond, perturbed = (case.array(n) for n in ("cond", "uncond", "perturbed"))
    result = {
        "cfg": deltas.cfg_delta(cond, uncond, settings["cfg_scale"]),
        "stg": deltas.stg_delta(cond, perturbed, settings["stg_scale"]),
        "cfg_star": deltas.cfg_star_delta(cond[:1], uncond[:1], settings["cfg_scale"]),
    }
    for name in ("apg", "apg_threshold", "apg_5d"):
        pair = ("cond5", "uncond5") if name == "apg_5d" else ("cond", "uncond")
        first, second = (case.array(n)[:1] for n in pair)
        given = settings[name]
        result[name] = deltas.apg_delta(
            first, second, given["scale"], given["eta"], given["norm_threshold"]
        )
    given = settings["stateful_apg"]
    rule = deltas.StatefulApg(
        given["scale"], given["eta"], given["norm_threshold"], given["momentum"]
    )
    for i in range(given["calls"]):
        result[f"stateful_apg.{i}"] = rule.delta(cond[:1] * (1 + 0.1 * i), uncond[:1])
    return {name: case.numpy(value) for name, value in result.items()}
