"""Prompts to contexts: order, sharing, phases, compatibility of files."""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.connectors import Connector
from ltx2.models.gemma3 import Gemma3
from ltx2.parity.registry import Case
from ltx2.pipelines.components.text import check_text_files, encode_prompts
from ltx2.weights.header import read_header

FP32 = {"text_encoder": "fp32", "connectors": "fp32"}


@pytest.fixture
def gemma(golden):
    return golden / "checkpoints" / "gemma-3-tiny"


@pytest.fixture(params=["ltx-2-tiny", "ltx-2.3-tiny"])
def header(golden, request):
    return read_header(golden / "checkpoints" / f"{request.param}.safetensors")


def test_contexts_equal_the_golden_in_the_order_of_the_prompts(golden, gemma, header, backend):
    generation = "ltx23" if "2.3" in header.path.name else "ltx2"
    names = ("neg", "a", "neg")
    cases = [Case(golden / "cases" / f"text__{generation}_context_{n}", backend) for n in names]
    prompts = [case.settings["prompt"] for case in cases]
    contexts = encode_prompts(prompts, gemma, header, backend, FP32)
    assert contexts[0].video is contexts[2].video
    for case, context in zip(cases, contexts, strict=True):
        assert (context.tokens, context.truncated) == (case.settings["valid_tokens"], 0)
        rows = case.settings["context_rows"]
        for got, key in ((context.video, "video_context"), (context.audio, "audio_context")):
            assert got.shape[:2] == (1, 1024)
            want = case.outputs[key]
            np.testing.assert_allclose(backend.numpy(got)[:, rows], want, atol=5e-4)


def test_encoder_and_connectors_are_never_in_memory_together(gemma, header, backend):
    seen = []

    def progress(what, done, total):
        alive = {type(x) for x in gc.get_objects()} & {Gemma3, Connector}
        seen.append((what, done, total, alive))

    encode_prompts(["a fox", "a boat"], gemma, header, backend, FP32, progress)
    assert seen == [
        *(("text encoder", i, 2, {Gemma3}) for i in range(3)),
        *(("text connectors", i, 2, {Connector}) for i in range(3)),
    ]


def test_bf16_contexts_are_finite_and_close(gemma, header, backend):
    dtypes = {"text_encoder": "bf16", "connectors": "bf16"}
    prompts = ["A red fox walks through fresh snow.", ""]
    half = encode_prompts(prompts, gemma, header, backend, dtypes)
    full = encode_prompts(prompts, gemma, header, backend, FP32)
    bf16 = backend.array(np.zeros(1, np.float32), "bf16").dtype
    for a, b in zip(half, full, strict=True):
        for x, y in ((a.video, b.video), (a.audio, b.audio)):
            assert x.dtype == bf16
            x, y = backend.numpy(x), backend.numpy(y)
            assert np.linalg.norm(x - y) < 0.1 * np.linalg.norm(y)


def test_a_long_prompt_reports_what_was_cut(gemma, header, backend):
    context = encode_prompts(["rain on the harbour " * 200], gemma, header, backend, FP32)[0]
    assert context.tokens == 1024 and context.truncated > 0


def test_fp16_text_encoder_is_refused(gemma, header, backend):
    with pytest.raises(UserError, match="overflows in fp16"):
        encode_prompts(["x"], gemma, header, backend, FP32 | {"text_encoder": "fp16"})


def test_a_gemma_of_another_width_is_refused(header, tmp_path, gemma):
    folder = shutil.copytree(gemma, tmp_path / "gemma")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"gives 384 features per token .* trained on 448"):
        check_text_files(folder, header)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"gemma_source_checkpoint": '{"gemma_version": "v9"}'}, "trained with text encoder 'v9'"),
        ({"gemma_source_checkpoint": "nonsense"}, "is not a JSON object"),
    ],
)
def test_another_declared_text_encoder_is_refused(header, gemma, metadata, message):
    declared = replace(header, metadata=header.metadata | metadata)
    with pytest.raises(UserError, match=message):
        check_text_files(gemma, declared)


def test_a_new_model_must_declare_its_text_encoder(header, gemma, tmp_path, caplog):
    new = replace(header, metadata=header.metadata | {"model_version": "2.4.0"})
    check_text_files(gemma, new)
    assert "does not say which text encoder" in caplog.text
    folder = shutil.copytree(gemma, tmp_path / "gemma")
    config = json.loads((folder / "config.json").read_text()) | {"gemma_version": "v1"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be checked against 'v1'"):
        check_text_files(folder, new)


def test_a_model_file_without_connectors_is_named(header, gemma):
    kept = {n: t for n, t in header.tensors.items() if "audio_embeddings_connector" not in n}
    with pytest.raises(UserError, match="does not hold audio text connector"):
        check_text_files(gemma, replace(header, tensors=kept))
