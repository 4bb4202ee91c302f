"""LoRAs follow the stage and the noise level, and one loaded transformer serves every set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from checkpoint_files import f32, read_raw, write_raw

from ltx2.app.compose import compose
from ltx2.app.effects import check_effects
from ltx2.cli import main
from ltx2.diffusion.noise import Replay
from ltx2.diffusion.state import initial_state
from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, audio_positions, video_positions
from ltx2.models.transformer import Stream
from ltx2.parity.pipelines import Memory, case_settings
from ltx2.parity.registry import Case
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.files import active_loras
from ltx2.pipelines.loras import (
    LoraStack,
    StageContexts,
    StageLora,
    check_lora_settings,
    check_loras,
    stage_loras,
)
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.settings import LoraSettings, PipelineSettings, Settings, StageSettings
from ltx2.weights.dtype_policy import dtype_policy
from ltx2.weights.header import read_header

GRID, AUDIO_TOKENS = (2, 2, 2), 5
BASE = StageSettings(name="base", loras=["user"])
REFINE = StageSettings(name="refine", loras=["user", "distilled"])
TINY = ("lora-tiny", "distilled-lora-tiny")


def settings(*loras: LoraSettings) -> Settings:
    named = {f"l{i}": lora for i, lora in enumerate(loras)}
    return Settings(lora=named, pipeline=PipelineSettings("two", [BASE, REFINE]))


def tiny(golden, name="lora-tiny"):
    return golden / "checkpoints" / f"{name}.safetensors"


def files_of(given: Settings, *paths):
    return {f"lora.{name}": path for name, path in zip(given.lora, paths, strict=True)}


class Loaded:
    """The tiny 2.0 transformer with fixed inputs."""

    def __init__(self, backend, golden, dtype="fp32") -> None:
        header = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
        self.backend, self.dtype = backend, dtype
        self.transformer = load_transformer(header, backend, dtype)
        draw = np.random.default_rng(4).standard_normal
        config = self.transformer.config
        self.raw = [
            backend.array(draw((1, 6, config.stream(s).caption)).astype(np.float32), dtype)
            for s in ("video", "audio")
        ]
        tables = (
            (int(np.prod(GRID)), config.video, video_positions(GRID, 24.0, VideoScale()), GRID),
            (AUDIO_TOKENS, config.audio, audio_positions(AUDIO_TOKENS), None),
        )
        self.states = [
            initial_state(
                backend.array(draw((1, n, c.in_channels)).astype(np.float32), dtype), p, grid
            )
            for n, c, p, grid in tables
        ]

    def stack(self, *loras: LoraSettings, paths) -> LoraStack:
        given = settings(*loras)
        return LoraStack(given, files_of(given, *paths), self.backend, self.dtype)

    def __call__(self) -> np.ndarray:
        """Both velocities of one forward pass, as one vector."""
        contexts = self.transformer.project_context(*self.raw)
        streams = [
            Stream(
                latent=state.latent,
                timesteps=np.full(state.latent.shape[:2], 0.7, np.float32),
                sigma=np.full(1, 0.7, np.float32),
                positions=state.positions,
                context=context,
            )
            for state, context in zip(self.states, contexts, strict=True)
        ]
        made = self.transformer(*streams)
        return np.concatenate([self.backend.numpy(x).ravel() for x in made]).astype(np.float64)


def test_a_stage_has_the_users_loras_then_the_distilled_one():
    given = settings(LoraSettings("a", strength=0.5), LoraSettings("b"))
    files = files_of(given, "a", "b") | {"distilled_lora": "d"}
    assert [lora.path for lora in stage_loras(given, files, REFINE)] == ["a", "b", "d"]
    assert [lora.strength for lora in stage_loras(given, files, BASE)] == [0.5, 1.0]


def test_a_stage_may_have_a_strength_of_its_own():
    given = settings(LoraSettings("a", strength=0.5, stages={"refine": 0.25, "base": 0.0}))
    files = files_of(given, "a") | {"distilled_lora": "d"}
    assert stage_loras(given, files, BASE) == ()
    assert stage_loras(given, files, REFINE)[0] == StageLora("a", 0.25)


def test_a_lora_is_active_when_any_stage_gives_it_strength():
    loras = {
        "off": LoraSettings("a", strength=0.0),
        "late": LoraSettings("b", strength=0.0, stages={"refine": 0.5}),
        "on": LoraSettings("c"),
    }
    assert list(active_loras(loras)) == ["late", "on"]


def test_a_schedule_multiplies_the_strength_by_noise_level():
    given = settings(LoraSettings("a", strength=0.5, schedule={"0.4": 0.5, 0.9: 2.0, 0.1: 0}))
    (lora,) = stage_loras(given, files_of(given, "a"), BASE)
    strengths = [lora.at(sigma).strength for sigma in (1.0, 0.9, 0.41, 0.4, 0.2, 0.1, 0.0)]
    assert strengths == [1.0, 1.0, 1.0, 0.25, 0.25, 0.0, 0.0]
    assert lora.at(0.4).schedule == ()


def test_swapping_loras_leaves_no_trace_of_the_set_before(backend, golden):
    model = Loaded(backend, golden)
    bare = model()
    style, distilled = (tiny(golden, name) for name in TINY)
    sets = {
        "style": ([LoraSettings("a", strength=0.8)], [style]),
        "both": ([LoraSettings("a"), LoraSettings("b", strength=0.5)], [style, distilled]),
        "none": ([], []),
    }
    made = {}
    for name in ("style", "both", "none", "style"):
        loras, paths = sets[name]
        # A new stack knows nothing of what is on the transformer, as a new run does not.
        model.stack(*loras, paths=paths).attach(model.transformer, BASE, 1.0)
        result = model()
        np.testing.assert_array_equal(result, made.setdefault(name, result))
    fresh = Loaded(backend, golden)
    loras, paths = sets["both"]
    fresh.stack(*loras, paths=paths).attach(fresh.transformer, BASE, 1.0)
    np.testing.assert_array_equal(fresh(), made["both"])
    np.testing.assert_array_equal(bare, made["none"])
    assert min(np.abs(made[n] - bare).max() for n in ("style", "both")) > 1e-3


def test_a_stack_goes_on_with_the_transformer_of_the_run_before(backend, golden):
    model = Loaded(backend, golden)
    first = model.stack(LoraSettings("a"), paths=[tiny(golden)])
    assert first.attach(model.transformer, BASE, 1.0)
    assert not first.attach(model.transformer, BASE, 0.5)
    same = first.for_run(first.settings, first.files)
    assert not same.attach(model.transformer, BASE, 1.0)
    bare = settings()
    assert first.for_run(bare, {}).attach(model.transformer, BASE, 1.0)
    other = Loaded(backend, golden)
    np.testing.assert_array_equal(model(), other())
    assert first.attach(other.transformer, BASE, 1.0), "another transformer has no LoRA yet"
    assert np.abs(model() - other()).max() > 1e-3


def test_strength_zero_is_no_lora(backend, golden):
    model = Loaded(backend, golden)
    bare = model()
    for off in (
        LoraSettings("a", strength=0.0),
        LoraSettings("a", stages={"base": 0.0}),
        LoraSettings("a", schedule={1.0: 0.0}),
    ):
        model.stack(off, paths=[tiny(golden)]).attach(model.transformer, BASE, 0.5)
        np.testing.assert_array_equal(model(), bare)


def test_contexts_are_projected_anew_when_the_loras_change(backend, golden, tmp_path):
    model = Loaded(backend, golden)
    layer = model.transformer.caption_projection.linear_1
    rng = np.random.default_rng(1)
    stem = "diffusion_model.caption_projection.linear_1.lora_"
    factors = {
        f"{stem}A.weight": f32(rng.standard_normal((2, layer.weight.shape[1]))),
        f"{stem}B.weight": f32(rng.standard_normal((layer.weight.shape[0], 2))),
    }
    path = write_raw(tmp_path / "caption.safetensors", factors)
    stack = model.stack(LoraSettings("a", schedule={1.0: 1.0, 0.5: 0.0}), paths=[path])
    bare = backend.numpy(model.transformer.project_context(*model.raw)[0])
    contexts = StageContexts(
        stack, model.transformer, BASE, lambda: [model.transformer.project_context(*model.raw)]
    )
    early, kept, late = (contexts(sigma) for sigma in (0.9, 0.7, 0.3))
    assert kept is early and late is not early
    np.testing.assert_array_equal(backend.numpy(late[0][0]), bare)
    assert np.abs(backend.numpy(early[0][0]) - bare).max() > 0.1


# Largest difference relative to the LoRAs' own effect; measured 8e-7 (fp32) and 1.6e-2 (bf16).
FUSION_BOUND = {"fp32": 5e-6, "bf16": 0.05}


@pytest.mark.parametrize("dtype", FUSION_BOUND)
def test_fused_and_unfused_agree_within_a_bound(backend, golden, dtype):
    paths = [tiny(golden, name) for name in TINY]
    made = {}
    for fused in (False, True):
        model = Loaded(backend, golden, dtype)
        bare = model()
        loras = [LoraSettings("a", strength=0.8, fused=fused), LoraSettings("b", fused=fused)]
        model.stack(*loras, paths=paths).attach(model.transformer, BASE, 1.0)
        made[fused] = model()
    effect = np.abs(made[False] - bare).max()
    assert effect > 0.05
    assert np.abs(made[True] - made[False]).max() < FUSION_BOUND[dtype] * effect


def test_a_fused_set_cannot_be_swapped(backend, golden):
    model = Loaded(backend, golden)
    model.stack(LoraSettings("a", fused=True), paths=[tiny(golden)]).attach(
        model.transformer, BASE, 1.0
    )
    with pytest.raises(UserError, match=r"fused into .* layers and cannot be taken out again"):
        model.stack(paths=[]).attach(model.transformer, BASE, 1.0)


def ended(case, backend, **changes) -> dict[str, np.ndarray]:
    """The latents of both stages of a recorded two-stage run with its LoRA changed."""
    given = case_settings(case, "two_stage")
    lora = dataclasses.replace(given.lora["lora-tiny"], **changes)
    plan = make_plan(dataclasses.replace(given, lora={"lora-tiny": lora}))
    draws = [case.inputs[key] for key in sorted(case.inputs) if key.startswith("noise.")]
    seen: dict[str, np.ndarray] = {}
    dtypes = dtype_policy(backend, case.dtype)
    Runner(plan, backend, dtypes, Replay(draws), seen.__setitem__).run(Memory())
    return {key: value for key, value in seen.items() if key.endswith("video.latent")}


def test_a_run_follows_strengths_by_stage_and_noise_level(backend, golden):
    case = Case(golden / "cases" / "e2e__two_stage_ltx2", backend)
    plain = ended(case, backend)
    spelled = ended(
        case, backend, strength=0.4, stages={"base": 0.8, "refine": 0.8}, schedule={1.0: 1.0}
    )
    refined = ended(case, backend, stages={"refine": 0.0})
    late = ended(case, backend, schedule={1.0: 1.0, 0.5: 0.0})
    for key, value in plain.items():
        np.testing.assert_array_equal(spelled[key], value)
    base, refine = sorted(plain)
    np.testing.assert_array_equal(refined[base], plain[base])
    assert np.abs(refined[refine] - plain[refine]).max() > 1e-3
    assert np.abs(late[base] - plain[base]).max() > 1e-4


def metadata_copy(golden, folder, name, **metadata):
    raw, own = read_raw(tiny(golden))
    return write_raw(folder / f"{name}.safetensors", raw, own | metadata)


def test_two_references_of_different_scale_are_refused(golden, tmp_path):
    paths = [
        metadata_copy(golden, tmp_path, f"half{n}", reference_downscale_factor=n) for n in "24"
    ]
    checkpoint = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    given = settings(LoraSettings("a"), LoraSettings("b"))
    given = dataclasses.replace(given, pipeline=PipelineSettings("one", [BASE]))
    with pytest.raises(UserError, match=r"half2.* has 2, half4.* has 4; use only one of them"):
        check_loras(given, files_of(given, *paths), checkpoint)
    check_loras(given, files_of(given, paths[0], tiny(golden)), checkpoint)


@pytest.mark.parametrize(
    ("lora", "complaint"),
    [
        ({"strength": 5.0}, r"lora\.l0\.strength=5\.0 is not in \[-4, 4\]"),
        ({"strength": float("nan")}, r"strength=nan is not in"),
        ({"stages": {"base": -9.0}}, r"lora\.l0\.stages\.base=-9\.0 is not in \[-4, 4\]"),
        (
            {"stages": {"bse": 0.5}},
            r"lora\.l0\.stages: 'bse' is no stage of pipeline=two that takes LoRAs;"
            r" did you mean 'base'\?; use base, refine",
        ),
        ({"schedule": {0.5: 8.0}}, r"lora\.l0\.schedule\[0\.5\]=8\.0 is not in \[-4, 4\]"),
        ({"schedule": {"x": 1.0}}, r"lora\.l0\.schedule: key x is no noise level in \(0, 1\]"),
        ({"schedule": {0: 1.0}}, r"key 0 is no noise level"),
        (
            {"schedule": {0.5: 1.0}, "fused": True},
            r"lora\.l0\.fused=true forbids; set lora\.l0\.fused=false",
        ),
    ],
)
def test_what_a_lora_cannot_do_is_refused(lora, complaint):
    with pytest.raises(UserError, match=complaint):
        check_lora_settings(settings(LoraSettings("a", **lora)))


def test_fused_loras_need_the_same_set_in_every_stage(golden):
    given = settings(LoraSettings("a", fused=True, stages={"refine": 0.5}))
    given = dataclasses.replace(given, model=dataclasses.replace(given.model, kind="any"))
    checkpoint = read_header(golden / "checkpoints" / "ltx-2-tiny.safetensors")
    with pytest.raises(UserError, match="is fused, but the stages run with different LoRA sets"):
        check_loras(given, files_of(given, tiny(golden)), checkpoint)


def test_a_strength_that_every_stage_replaces_has_no_effect():
    options = ["lora=user", "lora.user.file=x", "lora.user.strength=0.5"]
    check_effects(compose([*options, "lora.user.stages={refine:1.0}"]), ["lora.user.strength"])
    every = compose([*options, "lora.user.stages={base:1.0,refine:1.0}"])
    with pytest.raises(UserError, match=r"lora\.user\.stages names every stage that takes it"):
        check_effects(every, ["lora.user.strength"])


def test_a_plain_path_makes_an_entry_of_its_own():
    composed = compose(
        ["lora=[camera_static]", "+lora.mine.file=a", "lora.mine.strength=0.5", "+lora.b.file=c"]
    )
    assert {n: (x.file, x.strength) for n, x in list(composed.lora.items())[1:]} == {
        "mine": ("a", 0.5),
        "b": ("c", 1.0),
    }


def test_a_lora_by_path_changes_the_clip(tmp_path):
    """The pocket model from the command line, with a LoRA of its sizes."""
    header = read_header(make_plan(compose()).files["checkpoint"])
    rng = np.random.default_rng(0)
    stem = "transformer_blocks.0.attn1.to_q"
    out, inner = header.tensors[f"model.diffusion_model.{stem}.weight"].shape
    path = write_raw(
        tmp_path / "mine.safetensors",
        {
            f"diffusion_model.{stem}.lora_A.weight": f32(rng.standard_normal((2, inner))),
            f"diffusion_model.{stem}.lora_B.weight": f32(rng.standard_normal((out, 2))),
        },
    )
    fast = ["pipeline=one_stage", "height=32", "width=32", "frames=9", "scheduler.steps=2"]
    fast += ["output=png", "dtype=fp32", "checks=off"]
    made = {}
    for name, options in {
        "bare": [],
        "off": [f"+lora.mine.file={path}", "lora.mine.schedule={1.0:0}"],
        "on": [f"+lora.mine.file={path}"],
    }.items():
        assert main([*fast, *options, f"paths.outputs={tmp_path / name}"]) == 0
        frames = sorted((tmp_path / name).rglob("frames/*.png")) or sorted(
            p for p in (tmp_path / name).rglob("*.png") if "sheet" not in p.name
        )
        made[name] = [frame.read_bytes() for frame in frames]
    assert made["bare"] and made["off"] == made["bare"] != made["on"]
