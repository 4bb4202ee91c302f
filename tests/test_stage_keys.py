"""Keys of stage results: what each option invalidates, and that it invalidates nothing else."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx2.app.compose import compose
from ltx2.media.images import write_png
from ltx2.pipelines.identity import content_hash, digest, weights_identity
from ltx2.pipelines.keys import Keys
from ltx2.pipelines.planning import make_plan
from ltx2.weights.dtype_policy import COMPONENTS

DTYPES = dict.fromkeys(COMPONENTS, "fp32")
DEVICE = {"backend": "torch", "version": "2.13.0", "device": "cpu"}
STAGES = ("text", "base", "upscale", "refine", "sound", "picture")
BASE = {"text", "base", "upscale", "refine", "sound", "picture"}


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    """A LoRA of rank 1 on one layer of the pocket transformer."""
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    header = make_plan(compose([])).headers["checkpoint"]
    out, width = header.tensors[f"model.{layer}.weight"].shape
    path = tmp_path_factory.mktemp("lora") / "mine.safetensors"
    factors = {
        f"{layer}.lora_A.weight": np.ones((1, width), np.float32),
        f"{layer}.lora_B.weight": np.ones((out, 1), np.float32),
    }
    save_file(factors, path)
    return path


def keys_of(*overrides, dtypes=DTYPES, device=DEVICE):
    """Keys by stage of the default pipeline with `overrides`."""
    plan = make_plan(compose(list(overrides)))
    keys = Keys(plan, device, dtypes)
    final = plan.stages[-1]
    made = {stage.name: keys.latents(stage.name) for stage in plan.stages[:-1]}
    made |= {"text": keys.text(False), "sound": keys.sound(final)}
    return made | {"picture": keys.picture(final, draws_noise=False)}


def changed(*overrides, base=(), **more):
    """The stages whose keys differ from those of `base` alone."""
    before, after = keys_of(*base), keys_of(*base, *overrides, **more)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("prompt=a green square moves left on a black background", BASE),
        ("seed=11", BASE - {"text"}),
        ("height=192", BASE - {"text"}),
        ("frames=25", BASE - {"text"}),
        ("fps=24", BASE - {"text"}),
        ("scheduler.steps=4", BASE - {"text"}),
        ("scheduler=linear_quadratic", BASE - {"text"}),
        ("sampler=gradient_estimation", BASE - {"text"}),
        ("guidance.video.cfg=2.5", BASE - {"text"}),
        ("guidance.audio.cfg=2.5", BASE - {"text"}),
        ("guidance.video.rescale=0.3", BASE - {"text"}),
        ("negative_prompt=blue", BASE - {"text"}),
        ("quant=int8", BASE - {"text"}),
        ("quant.blocks=fp8 quant.keep=[transformer_blocks.0.*]", BASE - {"text"}),
        ("quant.text=int8", BASE),
        ("noise=device", BASE - {"text"}),
        ("schedules.stage2=[0.9,0.4,0.0]", {"refine", "picture"}),
        ("denoise_tiles.width=2 denoise_tiles.width_overlap=1", BASE - {"text"}),
        ("tiling=off", {"picture"}),
        ("tiling.mode=size tiling.width=64 tiling.width_overlap=32", {"picture"}),
    ],
)
def test_an_option_invalidates_exactly_the_stages_that_read_it(override, stages):
    # A prompt has spaces of its own.
    given = [override] if override.startswith("prompt") else override.split(" ")
    assert changed(*given) == stages


@pytest.mark.parametrize(
    "override",
    [
        "output=webm",
        "output.crf=30",
        "output=exr",
        "dfr.rounds=2",
        "output.private=true",
        "checks=strict",
        "on_interrupt=decode",
        "save_latents=true",
        "preview.every=2",
        "keep_loaded=true",
        "paths.outputs=elsewhere",
        "cache.max_gb=1",
        "debug=true",
        "guidance.max_batch=1",
        "model.name=another",
    ],
)
def test_what_no_stage_reads_invalidates_nothing(override):
    assert changed(override) == set()


@pytest.mark.parametrize(
    ("component", "stages"),
    [
        ("text_encoder", BASE),
        ("connectors", BASE),
        ("transformer", BASE - {"text"}),
        ("upsampler", {"upscale", "refine", "picture"}),
        ("video_vae", {"picture"}),
        ("audio_vae", {"sound"}),
    ],
)
def test_a_dtype_invalidates_what_its_component_computes_and_what_follows(component, stages):
    assert changed(dtypes=DTYPES | {component: "bf16"}) == stages


def test_another_device_or_version_invalidates_everything():
    assert changed(device=DEVICE | {"version": "2.14.0"}) == BASE
    assert changed(device=DEVICE | {"device": "cuda"}) == BASE


def test_a_strength_on_one_stage_leaves_the_stages_before_it(lora_file):
    base = ["lora=user", f"lora.user.file={lora_file}", "lora.user.strength=0.5"]
    found = changed("lora.user.stages={refine:0.8}", base=base)
    assert found == {"refine", "picture"}
    assert changed("lora.user.strength=0.7", base=base[:2]) == BASE - {"text"}


def test_a_lora_of_strength_zero_is_as_good_as_none(lora_file):
    given = ["lora=user", f"lora.user.file={lora_file}", "lora.user.strength=0"]
    assert keys_of(*given) == keys_of()


def test_the_content_of_an_image_counts_and_its_name_does_not(tmp_path):
    for name, level in (("a", 60), ("b", 60), ("c", 90)):
        write_png(tmp_path / f"{name}.png", np.full((64, 64, 3), level, np.uint8))
    keys = {
        name: keys_of("conditioning=image", f"conditioning.image.path={tmp_path / name}.png")
        for name in "abc"
    }
    assert keys["a"] == keys["b"]
    differing = {stage for stage in keys["a"] if keys["a"][stage] != keys["c"][stage]}
    assert differing == BASE - {"text"}
    given = ["conditioning=image", f"conditioning.image.path={tmp_path / 'a.png'}"]
    assert changed("conditioning.image.crf=0", base=given) == BASE - {"text"}
    assert changed("conditioning.image.strength=0.5", base=given) == BASE - {"text"}
    # The encoder of the images is part of the video VAE.
    assert changed(base=given, dtypes=DTYPES | {"video_vae": "bf16"}) == BASE - {"text"}


def test_pipelines_share_a_first_stage_that_is_the_same():
    one, two = (
        keys_of("pipeline=distilled"),
        keys_of("pipeline=two_stage", "scheduler=distilled", "guidance=none"),
    )
    assert one["base"] == two["base"] and one["text"] == two["text"]


def test_an_unguided_stage_does_not_read_the_negative_prompt():
    base = ["guidance=none"]
    assert changed("negative_prompt=blue", base=base) == set()


def test_weights_count_by_header_size_and_time_or_by_content(tmp_path):
    plan = make_plan(compose([]))
    file = tmp_path / "model.safetensors"
    shutil.copy2(plan.files["checkpoint"], file)
    quick, careful = weights_identity(file), content_hash(file)
    file.touch()
    assert weights_identity(file) != quick and content_hash(file) == careful
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert content_hash(file) != careful


def test_a_folder_of_weights_counts_with_its_tokenizer(tmp_path):
    folder = tmp_path / "gemma"
    shutil.copytree(make_plan(compose([])).files["text_encoder"], folder)
    before = weights_identity(folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert weights_identity(folder) != before


def test_equal_values_have_equal_digests_and_types_count():
    assert digest([1, {"a": (2, 3)}]) == digest((1, {"a": [2, 3]}))
    assert digest(1) != digest("1") != digest(1.0)
    assert digest({1: 2}) != digest({"1": 2})
    with pytest.raises(TypeError):
        digest(object())


def test_keys_are_the_same_in_every_process():
    settings = compose(["seed=3"])
    first = Keys(make_plan(settings), DEVICE, DTYPES).latents("refine")
    again = Keys(make_plan(dataclasses.replace(settings)), DEVICE, DTYPES).latents("refine")
    assert first == again
