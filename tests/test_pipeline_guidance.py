"""Every kind of guidance combines its passes as specified, however they are stacked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ltx2.app.compose import compose
from ltx2.app.effects import check_effects
from ltx2.diffusion.state import freeze, initial_state
from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.denoiser import Contexts, Denoiser
from ltx2.pipelines.guidance import (
    AUTO_TOKENS,
    KINDS,
    GuidancePair,
    check_model_takes_guidance,
    entries,
    resolve_guidance,
)
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.settings import (
    GuidanceSettings,
    SigmaGuidance,
    StageSettings,
    StreamGuidance,
)
from ltx2.weights.header import read_header

GRID, AUDIO_TOKENS = (2, 2, 2), 5
VIDEO = StreamGuidance(cfg=3.0, stg=1.0, stg_blocks=[1], rescale=0.7, modality=3.0, skip_step=0)
AUDIO = dataclasses.replace(VIDEO, cfg=7.0)
PRESET = GuidanceSettings(video=VIDEO, audio=AUDIO)
FAST = ("pipeline=one_stage", "height=32", "width=32", "frames=9", "scheduler.steps=4")


def pair(settings: GuidanceSettings, streams=("video", "audio")) -> GuidancePair:
    stage = StageSettings(name="base", streams=list(streams))
    return GuidancePair.of(resolve_guidance(settings, PRESET), stage, layers=2)


def both(kind: str, **values) -> GuidancePair:
    stream = StreamGuidance(**values)
    return pair(GuidanceSettings(kind, stream, dataclasses.replace(stream)))


class Passes:
    """A denoiser over the tiny 2.0 transformer that keeps every pass and call it makes."""

    def __init__(self, backend, golden, guidance, batch=1) -> None:
        header = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
        self.backend = backend
        transformer = load_transformer(header, backend, "fp32")
        draw = np.random.default_rng(4).standard_normal
        config = transformer.config

        def array(*shape):
            return backend.array(draw(shape).astype(np.float32))

        def prompt():
            raw = (array(1, 6, config.stream(s).caption) for s in ("video", "audio"))
            return Contexts(*transformer.project_context(*raw))

        self.prompts = [prompt(), prompt()]
        video = array(batch, int(np.prod(GRID)), config.video.in_channels)
        audio = array(batch, AUDIO_TOKENS, config.audio.in_channels)
        self.states = [
            initial_state(video, video_positions(GRID, 24.0, VideoScale()), GRID),
            initial_state(audio, audio_positions(AUDIO_TOKENS)),
        ]
        self.seen: dict[tuple[str, str], np.ndarray] = {}
        self.calls: list[int] = []
        self.denoiser = Denoiser(
            transformer, lambda _: self.prompts, guidance, self._keep, self.calls.append
        )

    def _keep(self, stream, name, value) -> None:
        self.seen[stream, name] = self.backend.numpy(value).astype(np.float64)

    def at(self, sigma=0.8, step=0) -> tuple[np.ndarray, np.ndarray]:
        result = self.denoiser(*self.states, sigma, step)
        return self.backend.numpy(result.video), self.backend.numpy(result.audio)

    def names(self) -> set[str]:
        return {name for _, name in self.seen}


def project(a, b):
    return (a * b).sum() / ((b * b).sum() + 1e-8) * b


def expected(kind, options, c, u, average=None):
    """The formulas of the sampling specification, section 11.2, in float64."""
    s, gap = options["cfg"], c - u
    if kind == "cfg":
        return c + (s - 1) * gap
    if kind == "cfg_star":
        return c + (s - 1) * (c - project(c, u))
    if average is not None:
        gap = options["momentum"] * average + gap
    norm = np.sqrt((gap * gap).sum())
    gap = gap * min(1.0, options["threshold"] / norm) if options["threshold"] > 0 else gap
    along = project(gap, c)
    return c + (s - 1) * (options["eta"] * along + gap - along)


SINGLE = {
    "cfg": {"cfg": 3.0, "rescale": 0.0},
    "cfg_star": {"cfg": 3.0},
    "apg": {"cfg": 3.0, "eta": 0.5, "threshold": 2.0},
    "apg_momentum": {"cfg": 4.0, "eta": 0.25, "threshold": 3.0, "momentum": -0.5},
}


@pytest.mark.parametrize("kind", SINGLE)
def test_each_kind_makes_of_the_negative_prompt_what_its_formula_says(backend, golden, kind):
    run = Passes(backend, golden, both(kind, **SINGLE[kind]))
    averages = [None, None]
    for step, sigma in enumerate((0.9, 0.6)):
        got = run.at(sigma, step)
        assert run.names() == {"cond", "uncond"}
        for i, stream in enumerate(("video", "audio")):
            c, u = run.seen[stream, "cond"], run.seen[stream, "uncond"]
            want = expected(kind, SINGLE[kind], c, u, averages[i])
            np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)
            plain = expected("cfg", SINGLE[kind], c, u)
            assert (np.abs(want - plain).max() > 5e-3) == (kind != "cfg")
            if kind == "apg_momentum":
                before = 0 if averages[i] is None else averages[i]
                averages[i] = SINGLE[kind]["momentum"] * before + c - u


def test_a_denoiser_made_again_has_forgotten_the_running_average(backend, golden):
    run = Passes(
        backend, golden, both("apg_momentum", **SINGLE["apg_momentum"] | {"threshold": 0.0})
    )
    first = run.at(0.9)
    moved = run.at(0.9)
    run.denoiser = dataclasses.replace(run.denoiser)
    np.testing.assert_array_equal(run.at(0.9)[0], first[0])
    assert np.abs(moved[0] - first[0]).max() > 1e-3


def test_stg_alone_reads_no_negative_prompt(backend, golden):
    guidance = both("stg", stg=1.5, stg_blocks=[1], rescale=0.0)
    run = Passes(backend, golden, guidance)
    video, _ = run.at()
    c, p = run.seen["video", "cond"], run.seen["video", "ptb"]
    np.testing.assert_allclose(video, c + 1.5 * (c - p), rtol=1e-5, atol=1e-5)
    assert run.names() == {"cond", "ptb"} and not guidance.needs_negative


def test_no_guidance_is_the_conditioned_estimate(backend, golden):
    run = Passes(backend, golden, pair(GuidanceSettings("none")))
    video, audio = run.at()
    np.testing.assert_array_equal(video, run.seen["video", "cond"].astype(np.float32))
    np.testing.assert_array_equal(audio, run.seen["audio", "cond"].astype(np.float32))
    assert run.calls == [1]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_result_does_not_depend_on_how_passes_are_stacked(backend, golden, batch):
    made = {}
    calls = {0: [4], 1: [1, 1, 1, 1], 2: [2, 2], 3: [3, 1], "auto": [4]}
    for limit, expected_calls in calls.items():
        settings = GuidanceSettings(max_batch=limit)
        run = Passes(backend, golden, pair(settings), batch)
        made[limit] = run.at()
        assert run.calls == expected_calls
    for other in (1, 2, 3, "auto"):
        for whole, split in zip(made[0], made[other], strict=True):
            np.testing.assert_allclose(split, whole, rtol=2e-5, atol=2e-5)


def test_auto_stacks_what_stays_small_and_in_even_shares():
    auto = pair(GuidanceSettings())
    assert [auto.stacked(4, n) for n in (100, AUTO_TOKENS // 4, AUTO_TOKENS // 4 + 1)] == [4, 4, 2]
    assert [auto.stacked(4, n) for n in (AUTO_TOKENS // 2, AUTO_TOKENS, 10**6)] == [2, 1, 1]
    assert auto.stacked(3, 100) == 3 and auto.stacked(0, 100) == 1
    fixed = pair(GuidanceSettings(max_batch=3))
    assert (fixed.stacked(4, 10**6), fixed.stacked(2, 10)) == (3, 2)


def test_scales_change_below_a_noise_level_and_the_rest_stays():
    changed = {"0.5": SigmaGuidance(cfg=2.0), 0.25: SigmaGuidance(cfg=1.0, stg=0.0)}
    guidance = pair(GuidanceSettings(video=StreamGuidance(by_sigma=changed)))
    scales = [guidance.video.at(sigma) for sigma in (1.0, 0.51, 0.5, 0.3, 0.25, 0.0)]
    assert [s.cfg for s in scales] == [3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    assert [s.stg for s in scales] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert {s.rescale for s in scales} == {0.7} and guidance.audio.at(0.3).cfg == 7.0


def test_a_largest_key_of_one_replaces_the_streams_own_values():
    changed = {1: SigmaGuidance(cfg=2.0), 0.5: SigmaGuidance(cfg=5.0)}
    guidance = pair(GuidanceSettings(video=StreamGuidance(by_sigma=changed)))
    assert [guidance.video.at(s).cfg for s in (1.0, 0.6, 0.5)] == [2.0, 2.0, 5.0]


def test_a_negative_prompt_is_needed_when_any_noise_level_needs_it():
    late = {0.5: SigmaGuidance(cfg=2.0)}
    streams = StreamGuidance(cfg=1.0, by_sigma=late), StreamGuidance(cfg=1.0)
    guidance = pair(GuidanceSettings("cfg", *streams))
    assert guidance.needs_negative and guidance.passes_at(0, 0.9) == 1
    assert guidance.passes_at(0, 0.4) == 2


def test_passes_follow_the_noise_level_of_the_call(backend, golden):
    off = {0.5: SigmaGuidance(cfg=1.0, stg=0.0, modality=1.0)}
    streams = StreamGuidance(by_sigma=off), StreamGuidance(by_sigma=dict(off))
    run = Passes(backend, golden, pair(GuidanceSettings("multimodal", *streams)))
    run.at(0.9)
    run.at(0.4, step=1)
    assert run.calls == [4, 1]


def test_a_plan_counts_the_passes_of_every_noise_level():
    off = "guidance.video.by_sigma={0.5:{cfg:1.0}}"
    plain = make_plan(compose([*FAST, "guidance=cfg", "guidance.audio.cfg=1.0"])).stages[0]
    fewer = make_plan(compose([*FAST, "guidance=cfg", "guidance.audio.cfg=1.0", off])).stages[0]
    below = sum(sigma <= 0.5 for sigma in plain.sigmas[:-1])
    assert plain.transformer_calls == 8 and below > 0
    assert fewer.transformer_calls == 8 - below


def test_a_frozen_stream_without_guidance_keeps_the_positive_prompt(backend, golden):
    settings = GuidanceSettings("cfg", StreamGuidance(cfg=3.0), StreamGuidance(cfg=1.0))
    run = Passes(backend, golden, pair(settings))
    run.states[1] = freeze(run.states[1])
    first = run.at()[0]
    run.prompts[1] = Contexts(run.prompts[1].video, 2 * run.prompts[1].audio)
    np.testing.assert_array_equal(run.at()[0], first)
    run.prompts[1] = Contexts(2 * run.prompts[1].video, run.prompts[1].audio)
    assert np.abs(run.at()[0] - first).max() > 1e-3


def test_a_stream_alone_has_nobody_to_be_isolated_from():
    changed = {0.5: SigmaGuidance(modality=5.0)}
    settings = GuidanceSettings(audio=StreamGuidance(by_sigma=changed))
    guidance = pair(settings, streams=["audio"])
    assert {scales.modality for scales in entries(guidance, "audio")} == {1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_option_that_plans_on_the_pocket_model(kind):
    blocks = ["guidance.video.stg_blocks=[2]", "guidance.audio.stg_blocks=[2]"]
    plan = make_plan(compose([*FAST, f"guidance={kind}", *(blocks if kind == "stg" else [])]))
    assert plan.settings.guidance.kind == kind
    passes = {"none": 4}.get(kind, 8)
    assert plan.stages[0].transformer_calls == passes


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (GuidanceSettings("cgf"), r"guidance\.kind=cgf is unknown; did you mean 'cfg'\?; use none"),
        (
            GuidanceSettings("cfg", StreamGuidance(stg=1.0)),
            r"guidance\.video\.stg=1\.0 has no effect on guidance\.kind=cfg, which uses cfg,"
            r" rescale, skip_step; drop it or choose guidance=multimodal",
        ),
        (
            GuidanceSettings(video=StreamGuidance(momentum=0.5)),
            r"momentum=0\.5 has no effect on guidance\.kind=multimodal.*guidance=apg_momentum",
        ),
        (
            GuidanceSettings("cfg", StreamGuidance(by_sigma={0.5: SigmaGuidance(modality=2.0)})),
            r"guidance\.video\.modality=2\.0 has no effect on guidance\.kind=cfg",
        ),
        (
            GuidanceSettings("apg", StreamGuidance(threshold=-1.0)),
            r"guidance\.video\.threshold=-1\.0 is negative; 0 caps nothing",
        ),
        (
            GuidanceSettings("apg_momentum", StreamGuidance(momentum=1.5)),
            r"momentum=1\.5 is not in \(-1, 1\)",
        ),
        (
            GuidanceSettings(video=StreamGuidance(by_sigma={"low": SigmaGuidance(cfg=2.0)})),
            r"guidance\.video\.by_sigma: key low is no noise level in \(0, 1\]",
        ),
        (
            GuidanceSettings(video=StreamGuidance(by_sigma={1.5: SigmaGuidance(cfg=2.0)})),
            r"key 1\.5 is no noise level",
        ),
        (
            GuidanceSettings(
                video=StreamGuidance(by_sigma={0.5: SigmaGuidance(), "0.50": SigmaGuidance()})
            ),
            r"by_sigma has 0\.5 twice",
        ),
        (
            GuidanceSettings(video=StreamGuidance(by_sigma={0.5: SigmaGuidance(stg_blocks=[9])})),
            r"guidance\.video\.by_sigma\[0\.5\]\.stg_blocks=\[9\]: block 9 does not exist;"
            r" the transformer has blocks 0 to 1",
        ),
        (GuidanceSettings(video=StreamGuidance(cfg=float("nan"))), r"video\.cfg=nan is not a num"),
        (GuidanceSettings(max_batch=-1), r"max_batch=-1 is not auto or a number; 0 runs all"),
        (GuidanceSettings(max_batch="all"), r"max_batch=all is not auto or a number"),
    ],
)
def test_guidance_that_cannot_be_followed_is_refused(given, complaint):
    with pytest.raises(UserError, match=complaint):
        pair(given)


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        (["guidance=none"], "guidance.video.cfg", "guidance=none does not use it"),
        (["guidance=none"], "guidance.max_batch", "guidance=none makes one pass"),
        (["guidance=none"], "guidance.video.by_sigma", "guidance=none does not use it"),
        (["guidance=cfg"], "guidance.audio.modality", "guidance=cfg does not use it"),
        (["guidance=cfg_star"], "guidance.video.eta", "guidance=cfg_star does not use it"),
        (["guidance=apg"], "guidance.video.momentum", "guidance=apg does not use it"),
        (["guidance=stg"], "negative_prompt", "guidance without cfg reads no negative prompt"),
        (["pipeline=text_to_audio"], "guidance.video.cfg", "no guided stage samples video"),
        (["pipeline=text_to_audio"], "guidance.audio.modality", "the stream is alone"),
    ],
)
def test_a_key_that_the_kind_leaves_out_is_refused(options, key, reason):
    settings = compose([*options, *(["negative_prompt=fog"] if key == "negative_prompt" else [])])
    with pytest.raises(UserError, match=f"{key} has no effect: {reason}; drop it"):
        check_effects(settings, [key])


def test_a_distilled_model_with_guidance_names_the_fix():
    settings = compose(["model=distilled", "guidance=cfg"])
    settings.guidance.video.cfg = 3.0
    with pytest.raises(UserError, match=r"takes no guidance, but guidance\.video\.cfg=3\.0; use g"):
        check_model_takes_guidance(settings)
    settings = dataclasses.replace(settings, scheduler=compose(["scheduler=beta"]).scheduler)
    with pytest.raises(UserError, match="use scheduler=distilled guidance=none"):
        check_model_takes_guidance(settings)
    check_model_takes_guidance(compose(["model=distilled"]))
    check_model_takes_guidance(compose(["model=dev", "guidance=cfg"]))


def test_a_config_file_may_write_noise_levels_as_numbers_or_texts(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "late.yaml").write_text(
        "# @package _global_\nguidance: {video: {by_sigma: {0.5: {cfg: 2.0}, '0.2': {cfg: 1}}}}\n"
    )
    settings = compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=late", *FAST])
    scales = make_plan(settings).stages[0].guidance.video
    assert [scales.at(sigma).cfg for sigma in (0.9, 0.5, 0.2)] == [3.0, 2.0, 1.0]
