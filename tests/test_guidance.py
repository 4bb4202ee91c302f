"""Guidance equals the reference; passes are those that some stream needs."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

import ltx2.parity.diffusion  # noqa: F401  (registers the runners)
from ltx2.diffusion.deltas import StatefulApg, apg_delta, cfg_star_delta
from ltx2.diffusion.guidance import ISOLATED, Guidance, GuidanceSchedule, combine, passes
from ltx2.errors import UserError
from ltx2.parity.registry import RUNNERS, Case, tolerance

SPEC = json.loads((Path(__file__).parent / "data" / "golden_spec.json").read_text())
VIDEO = Guidance(cfg=3, stg=1, stg_blocks=(29,), rescale=0.7, modality=3)
AUDIO = Guidance(cfg=7, stg=1, stg_blocks=(29,), rescale=0.7, modality=3)
HQ_VIDEO = Guidance(cfg=3, stg_blocks=(), rescale=0.45, modality=3)


def estimates(backend, names: str = "cupm"):
    """g.c, g.u, g.p, g.m of the published toy problem."""
    result = []
    for name in names:
        j, c = np.arange(24), zlib.crc32(f"g.{name}".encode()) % 1000
        values = np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j / 24 * c)
        result.append(backend.array(values.reshape(1, 6, 4).astype(np.float32)))
    return result


@pytest.mark.parametrize("name", ["deltas", "multimodal", "schedule"])
def test_outputs_equal_the_recording(name, golden, backend):
    case = Case(golden / "cases" / f"guider__{name}", backend)
    got = RUNNERS[case.component](case)
    for key, want in case.outputs.items():
        rtol, atol = tolerance(case.record, key)
        np.testing.assert_allclose(got[key], want, rtol, atol, err_msg=key)


@pytest.mark.parametrize(
    "key,scales", [("mm_2.0_video", VIDEO), ("mm_2.0_audio", AUDIO), ("mm_hq_video", HQ_VIDEO)]
)
def test_presets_combine_to_the_published_values(key, scales, backend):
    got = backend.numpy(combine(scales, *estimates(backend))).ravel()
    np.testing.assert_allclose(got, SPEC[f"guider/{key}"], rtol=0, atol=3e-6)


def test_single_term_rules_give_the_published_values(backend):
    cond, uncond = estimates(backend, "cu")
    legacy = StatefulApg(scale=3, eta=0.5, threshold=5).delta(cond, uncond)
    for key, delta in (
        ("delta_cfg_star_3", cfg_star_delta(cond, uncond, 3)),
        ("delta_apg_3_eta0.5_thr2", apg_delta(cond, uncond, 3, eta=0.5, threshold=2)),
        ("delta_legacy_apg_3_eta0.5_thr5", legacy),
    ):
        got = backend.numpy(delta).ravel()
        np.testing.assert_allclose(got, SPEC[f"guider/{key}"], rtol=0, atol=2e-6, err_msg=key)


def test_equal_estimates_have_no_projected_difference(backend):
    (cond,) = estimates(backend, "c")
    np.testing.assert_array_equal(backend.numpy(apg_delta(cond, cond, 3, threshold=2)), 0)


def test_default_scales_return_the_conditioned_estimate(backend):
    (cond,) = estimates(backend, "c")
    np.testing.assert_array_equal(backend.numpy(combine(Guidance(), cond)), backend.numpy(cond))


def test_the_result_keeps_the_dtype_of_the_estimates(backend):
    halves = [backend.array(backend.numpy(x), "bf16") for x in estimates(backend)]
    assert combine(VIDEO, *halves).dtype == halves[0].dtype


def test_a_full_preset_needs_four_passes_in_stacking_order():
    plan = passes(VIDEO, AUDIO, step=0)
    assert plan.names == ("cond", "uncond", "ptb", "mod")
    both = (("video_self", (29,)), ("audio_self", (29,)))
    assert plan.perturbations == ((), (), both, ISOLATED)
    assert plan.video and plan.audio


def test_one_streams_need_is_enough_and_only_it_is_perturbed():
    plan = passes(Guidance(), Guidance(stg=1, stg_blocks=[3]), step=0)
    assert plan.names == ("cond", "ptb")
    assert plan.perturbations[1] == (("audio_self", (3,)),)
    assert passes(HQ_VIDEO, Guidance(), step=0).names == ("cond", "uncond", "mod")
    assert passes(None, Guidance(), step=0).names == ("cond",)


def test_a_skipped_stream_reuses_its_result_and_asks_for_no_pass():
    rare, always = Guidance(cfg=3, skip_step=2), Guidance(modality=3)
    assert [rare.skips(step) for step in range(5)] == [False, True, True, False, True]
    plan = passes(rare, always, step=1)
    assert (plan.names, plan.video, plan.audio) == (("cond", "mod"), False, True)
    assert passes(rare, rare, step=1).names == ()


def test_a_schedule_takes_the_smallest_upper_bound():
    low, high = Guidance(cfg=1.5), Guidance(cfg=4)
    schedule = GuidanceSchedule({0.9: high, 0.3: low})
    assert [schedule.at(s) for s in (1.0, 0.9, 0.5, 0.3, 0.0)] == [high, high, high, low, low]
    assert VIDEO.at(0.4) is VIDEO and VIDEO.alone().modality == 1


@pytest.mark.parametrize(
    "scales,complaint",
    [
        ({"stg": 1.0, "stg_blocks": ()}, "stg=1 has no effect without stg_blocks"),
        ({"rescale": 1.5}, "rescale=1.5"),
        ({"skip_step": -1}, "skip_step=-1"),
    ],
)
def test_scales_without_meaning_are_refused(scales, complaint):
    with pytest.raises(UserError, match=complaint):
        Guidance(**scales)


def test_blocks_outside_the_model_are_refused():
    VIDEO.check_blocks(48)
    with pytest.raises(UserError, match=r"stg_blocks=\[29\]: use 0 to 27"):
        GuidanceSchedule({1.0: VIDEO}).check_blocks(28)
    with pytest.raises(UserError, match="at least one entry"):
        GuidanceSchedule({})
