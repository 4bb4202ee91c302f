"""Prompt enhancement: generation with a cache, sampling, loops, and what becomes of the text."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import BACKENDS, make_backend

from ltx2.errors import UserError
from ltx2.models.gemma_generate import (
    GemmaMemory,
    Generated,
    Sampling,
    collect,
    next_logits,
    sample_tokens,
)
from ltx2.models.tokenizer import PromptTokenizer
from ltx2.pipelines.components.enhance import (
    EnhanceOptions,
    enhance_prompts,
    finished_text,
    plain_text,
    system_prompt,
    whole_sentences,
)
from ltx2.pipelines.components.gemma import load_gemma, read_gemma

IDS = np.array([2, 288, 336, 396, 317, 40, 7, 101, 300], np.int32)


@pytest.fixture
def gemma(golden):
    return golden / "checkpoints" / "gemma-3-tiny"


@pytest.fixture
def copy(gemma, tmp_path):
    """A Gemma directory that a test may change."""
    return shutil.copytree(gemma, tmp_path / "gemma")


def windowed(model, window):
    return replace(model, config=replace(model.config, window=window))


@pytest.mark.parametrize("window", [512, 4])
def test_the_cache_changes_no_logits(gemma, backend, window):
    model = windowed(load_gemma(read_gemma(gemma), backend, "fp32"), window)
    memory = GemmaMemory.empty(model)
    for count in (3, *range(4, 10)):
        new = IDS[memory.tokens : count]
        whole = next_logits(model, IDS[:count], GemmaMemory.empty(model))
        np.testing.assert_allclose(next_logits(model, new, memory), whole, atol=2e-5)
    assert whole.shape == (416,) and np.abs(whole).max() > 1
    kept = {kv.window: kv.k.shape[2] for kv in memory.layers}
    assert kept == {window: min(window - 1, 9), None: 9}


@pytest.mark.parametrize("window", [512, 4])
def test_logits_and_greedy_text_are_those_of_transformers(gemma, backend, window):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    config = transformers.AutoConfig.from_pretrained(gemma).text_config
    config.sliding_window = window
    theirs = transformers.Gemma3ForCausalLM(config).eval()
    stored = {k: v for file in gemma.glob("*.safetensors") for k, v in load_file(file).items()}
    language = {k.removeprefix("language_model."): v for k, v in stored.items() if "language" in k}
    theirs.load_state_dict(language, strict=False)
    theirs.tie_weights()
    ours = windowed(load_gemma(read_gemma(gemma), backend, "fp32"), window)
    ids = IDS
    for token in itertools.islice(sample_tokens(ours, IDS, Sampling(0), 0), 12):
        with torch.no_grad():
            want = theirs(torch.from_numpy(ids[None].astype(np.int64))).logits[0, -1].numpy()
        got = next_logits(ours, ids, GemmaMemory.empty(ours))
        np.testing.assert_allclose(got, want, atol=2e-5)
        assert token == want.argmax()
        ids = np.append(ids, np.int32(token))


def test_sampling_keeps_the_likeliest_tokens():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    np.testing.assert_allclose(Sampling(1).probabilities(logits), np.exp(logits), atol=1e-6)
    np.testing.assert_allclose(
        Sampling(0.5).probabilities(logits), np.array([1, 16, 4, 9]) / 30, atol=1e-6
    )
    np.testing.assert_allclose(
        Sampling(1, top_k=2).probabilities(logits), [0, 4 / 7, 0, 3 / 7], atol=1e-6
    )
    np.testing.assert_allclose(
        Sampling(1, top_p=0.75).probabilities(logits), [0, 4 / 9, 2 / 9, 3 / 9], atol=1e-6
    )
    assert Sampling(1, top_p=1e-9).probabilities(logits).tolist() == [0, 1, 0, 0]
    assert Sampling(1, top_k=9).probabilities(logits).min() > 0


def test_draws_follow_the_probabilities():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    uniform = np.linspace(0, 1, 1000, endpoint=False)
    counts = np.bincount([Sampling(1).draw(logits, u) for u in uniform])
    np.testing.assert_allclose(counts, [100, 400, 200, 300], atol=1)
    assert Sampling(1).draw(logits, np.nextafter(1, 0)) == 3
    assert {Sampling(0).draw(logits, u) for u in (0.0, 0.99)} == {1}


def test_a_seed_means_one_text_on_every_backend(gemma):
    options = EnhanceOptions(seed=7, temperature=1.5, max_new_tokens=40)

    def run(name, seed):
        prompts = ["a red fox", "blurry"]
        changed = replace(options, seed=seed)
        return enhance_prompts(prompts, gemma, make_backend(name), "fp32", changed)

    texts = {name: run(name, 7) for name in BACKENDS}
    first = texts[BACKENDS[0]]
    assert all(text == first for text in texts.values())
    assert first[0] != "a red fox" and first[1] == "blurry"
    assert run(BACKENDS[0], 7) == first
    assert run(BACKENDS[0], -8)[0] != first[0]


def test_stops_cap_and_loops_end_the_text():
    assert collect(iter([5, 6, 1, 7]), {1}, 9) == Generated((5, 6), "stop")
    assert collect(itertools.count(), {-1}, 30) == Generated(tuple(range(30)), "cap")
    assert collect(itertools.repeat(4), {1}, 99) == Generated((4,), "loop")


@pytest.mark.parametrize("period", [1, 2, 5, 12, 30])
def test_a_loop_keeps_one_turn_of_itself(period):
    intro = list(range(100, 120))
    loop = itertools.cycle(range(period))
    assert collect(itertools.chain(intro, loop), set(), 512) == Generated(
        (*intro, *range(period)), "loop"
    )


def test_phrases_that_return_are_no_loop():
    phrase = list(range(8))
    text = [token for n in range(20) for token in (*phrase, 100 + n)]
    assert collect(iter(text), set(), len(text)).ended == "cap"


def test_a_greedy_tiny_model_runs_in_circles_and_is_stopped(gemma, backend, caplog):
    options = EnhanceOptions(temperature=0, max_new_tokens=500)
    text = enhance_prompts(["a red fox"], gemma, backend, "fp32", options)[0]
    assert "repeat itself" in caplog.text
    assert text == "a red fox" or whole_sentences(text) == text


def test_the_cap_counts_new_tokens(gemma, backend, caplog):
    seen = []
    options = EnhanceOptions(temperature=2.0, max_new_tokens=3, top_k=0, top_p=1.0)
    enhance_prompts(["fox"], gemma, backend, "bf16", options, lambda *step: seen.append(step))
    assert seen == [("prompt enhancement", n, 3) for n in range(3)]
    assert "cut at 3 tokens" in caplog.text


def test_the_model_reads_instructions_and_prompt_as_one_turn(gemma):
    tokenizer = PromptTokenizer.from_directory(gemma)
    ids = tokenizer.chat("Be brief.", "user prompt: a fox \n").tolist()
    parts = "user\nBe brief.\n\nuser prompt: a fox", "\n", "model\n"
    turn, end = 5, 6
    a, b, c = (tokenizer.tokenizer.encode(p, add_special_tokens=False).ids for p in parts)
    assert ids == [2, turn, *a, end, *b, turn, *c]
    assert tokenizer.stops == {1, 6}
    assert tokenizer.text([turn, *a, end]) == parts[0]


def test_typographic_signs_become_ascii_and_the_text_begins_with_a_letter():
    text = " **1. \u201cÉmile\u2019s\u00a0cat\u201d \u2014 5\u2032 long, \u2212 3\u20134. "
    assert plain_text(text) == "Émile's cat\" - 5' long, - 3-4."
    assert plain_text("… 12 —") == ""


def test_sentences_are_cut_after_their_end():
    assert whole_sentences('A fox. It says "Hi!" Then it ru') == 'A fox. It says "Hi!"'
    assert whole_sentences("It is 3.5 m long and") == ""
    assert whole_sentences("一只狐狸。它在") == "一只狐狸。"


@pytest.mark.parametrize(
    ("ended", "text", "want", "warning"),
    [
        ("stop", "A fox. It ru", "A fox. It ru", ""),
        ("cap", "A fox. It ru", "A fox.", "cut at 2 tokens"),
        ("cap", "A fox and it ru", "A fox and it ru", "cut at 2 tokens"),
        ("loop", "A fox. It ru", "A fox.", "repeat itself"),
        ("loop", "A fox it ru", "the prompt", "stays as it was"),
        ("stop", "... 1.", "the prompt", "stays as it was"),
        ("stop", "", "the prompt", "stays as it was"),
    ],
)
def test_unusable_text_is_replaced_by_the_prompt(ended, text, want, warning, caplog):
    caplog.set_level(logging.WARNING)
    assert finished_text(Generated((1, 2), ended), text, "the prompt") == want
    assert warning in caplog.text and bool(warning) == bool(caplog.text)


def test_a_blank_prompt_stays_with_a_warning(gemma, backend, caplog):
    assert enhance_prompts([" ", "x"], gemma, backend, "fp32") == [" ", "x"]
    assert enhance_prompts([], gemma, backend, "fp32") == []
    assert "no prompt to enhance" in caplog.text


def test_instructions_come_from_a_file(gemma, backend, tmp_path):
    assert '"user prompt:"' in system_prompt() and len(system_prompt()) > 500
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffSay less. \n", encoding="utf-8")
    assert system_prompt(path) == "Say less."
    texts = {
        enhance_prompts(["a fox"], gemma, backend, "fp32", EnhanceOptions(1, 1.5, 20, file))[0]
        for file in (None, path)
    }
    assert len(texts) == 2
    path.write_text(" \n")
    with pytest.raises(UserError, match=r"system prompt file .*mine\.txt is empty"):
        system_prompt(path)
    with pytest.raises(FileNotFoundError, match=r"system prompt file .* does not exist"):
        system_prompt(tmp_path / "none.txt")


def test_an_encoder_without_turns_is_refused(backend):
    from ltx2.pipelines.prompts import DATA

    with pytest.raises(UserError, match="this text encoder cannot generate") as error:
        enhance_prompts(["a fox"], DATA.parent / "pocket" / "gemma", backend, "fp32")
    assert "\n" not in str(error.value)


def test_sampling_settings_of_the_model_apply_unless_given(copy, backend, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Say less.")

    def text(top_k=None):
        options = EnhanceOptions(3, 2.0, 12, short, top_k=top_k)
        return enhance_prompts(["a fox"], copy, backend, "fp32", options)[0]

    (copy / "generation_config.json").write_text(json.dumps({"top_k": 1, "eos_token_id": 1}))
    greedy = text()
    assert text(1) == greedy and text(0) != greedy
    (copy / "generation_config.json").unlink()
    assert text(1) == greedy
    (copy / "generation_config.json").write_text("[")
    with pytest.raises(UserError, match=r"generation_config\.json is not a JSON object"):
        text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "enhance.temperature=-0.1 must be 0 or more"),
        ({"temperature": float("nan")}, "enhance.temperature=nan"),
        ({"max_new_tokens": 0}, "enhance.max_new_tokens=0 must be 1 or more"),
        ({"top_k": -1}, "enhance.top_k=-1"),
        ({"top_p": 0.0}, r"enhance.top_p=0\.0 must be above 0"),
        ({"top_p": 1.1}, r"enhance.top_p=1\.1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EnhanceOptions(**options)


def test_overflow_is_an_error(gemma, backend):
    model = load_gemma(read_gemma(gemma), backend, "fp32")
    model.norm.weight = model.norm.weight * float("nan")
    with pytest.raises(UserError, match="not finite; run it in bf16 or fp32"):
        next(sample_tokens(model, IDS, Sampling(), 0))
