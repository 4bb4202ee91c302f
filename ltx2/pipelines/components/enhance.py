"""Prompt enhancement: the text encoder rewrites the first prompt (spec text.md section 10)."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.models.gemma_config import GemmaConfig
from ltx2.models.gemma_generate import Generated, Sampling, collect, sample_tokens
from ltx2.pipelines.components.gemma import GemmaFiles, load_gemma, read_gemma
from ltx2.pipelines.components.text import Progress
from ltx2.pipelines.prompts import DATA, read_text
from ltx2.weights.quantise import UNPACKED, Quantisation
from ltx2.weights.streaming import Streaming

log = logging.getLogger(__name__)

SYSTEM_PROMPT = DATA / "enhance_text_to_video.txt"
MESSAGE = "user prompt: "
_ASCII = str.maketrans(
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}"
    "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
    "\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{NO-BREAK SPACE}",
    "'''\"\"---- ",
)
_SENTENCES = re.compile(r""".*(?:[.!?]["')]*(?=\s|$)|[。！？])""", re.DOTALL)  # noqa: RUF001


@dataclass(frozen=True)
class EnhanceOptions:
    """Settings of the rewriting. `top_k`, `top_p`: None takes generation_config.json's, 0 and 1.0
    are off. `temperature` 0 is greedy. `system_prompt` replaces our instructions to the model.
    """

    seed: int = 42
    temperature: float = 0.7
    max_new_tokens: int = 512
    system_prompt: Path | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"enhance.temperature={self.temperature} must be 0 or more, as in 0.7")
        if self.max_new_tokens < 1:
            raise UserError(f"enhance.max_new_tokens={self.max_new_tokens} must be 1 or more")
        if self.top_k is not None and self.top_k < 0:
            raise UserError(f"enhance.top_k={self.top_k} must be 1 or more, or 0 for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"enhance.top_p={self.top_p} must be above 0 and at most 1")


def enhance_prompts(
    prompts: Sequence[str],
    gemma: Path,
    backend: Any,
    dtype: str,
    options: EnhanceOptions | None = None,
    progress: Progress | None = None,
    quantisation: Quantisation = UNPACKED,
    streaming: Streaming | None = None,
) -> list[str]:
    """`prompts` with the first one rewritten; the others, such as the negative one, stay.

    A blank first prompt stays too, with a warning. Equal options give an equal text. Raises
    UserError, before a weight is read, for a text encoder that cannot generate.
    """
    options = options or EnhanceOptions()
    system = system_prompt(options.system_prompt)
    if not prompts or not prompts[0].strip():
        log.warning("there is no prompt to enhance: it is left empty")
        return list(prompts)
    files = read_gemma(gemma)
    check_generates(files)
    defaults = _generation_config(files)
    tokenizer = files.tokenizer()
    ids = tokenizer.chat(system, MESSAGE + prompts[0])
    if int(ids.max()) >= files.config.vocabulary:
        raise UserError(f"{files.path}: tokenizer.json has more tokens than the text encoder")
    if streaming is not None:
        log.warning("every token of the enhanced prompt reads the streamed text encoder once")
    model = load_gemma(files, backend, dtype, quantisation, streaming)
    tokens = sample_tokens(model, ids, _sampling(options, defaults), options.seed)
    cap = options.max_new_tokens
    stops = tokenizer.stops | _stops(defaults)
    generated = collect(_reported(tokens, progress, cap), stops, cap)
    del model, tokens
    backend.free()
    enhanced = finished_text(generated, tokenizer.text(generated.ids), prompts[0])
    log.info("enhanced prompt: %s", enhanced)
    return [enhanced, *prompts[1:]]


def check_generates(files: GemmaFiles) -> None:
    """Raise UserError for a text encoder that cannot write text."""
    if not isinstance(files.config, GemmaConfig):
        raise UserError(
            f"{files.path.name} encodes prompts but cannot write them: LTX-2.5 needs a separate"
            " instruct model for that, which is not supported; set enhance.enabled=false"
        )
    # Raises where the tokenizer has no turns to hold a conversation in.
    files.tokenizer().chat("", "")


def system_prompt(path: Path | None = None) -> str:
    """The instructions to the model, ours by default. Raises UserError for no or an empty file."""
    path = SYSTEM_PROMPT if path is None else Path(path)
    text = read_text(path, "system prompt file").strip()
    if not text:
        raise UserError(f"system prompt file {path} is empty; write instructions or use ours")
    return text


def finished_text(generated: Generated, text: str, original: str) -> str:
    """The prompt that `text` makes: cleaned, unfinished sentences dropped, else `original`."""
    text = plain_text(text)
    if generated.ended == "cap":
        log.warning("prompt enhancement was cut at %d tokens", len(generated.ids))
        text = whole_sentences(text) or text
    if generated.ended == "loop":
        text = whole_sentences(text)
        log.warning("prompt enhancement began to repeat itself; kept: %r", text[:80])
    if not text:
        log.warning("prompt enhancement gave no usable text; the prompt stays as it was")
        return original
    return text


def plain_text(text: str) -> str:
    """Typographic quotes, dashes and spaces as ASCII; begins with a letter."""
    text = text.translate(_ASCII).strip()
    start = next((index for index, letter in enumerate(text) if letter.isalpha()), len(text))
    return text[start:]


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence; empty if there is none."""
    match = _SENTENCES.match(text)
    return match[0] if match else ""


def _reported(tokens: Iterator[int], progress: Progress | None, total: int) -> Iterator[int]:
    for done, token in enumerate(tokens):
        if progress is not None:
            progress("prompt enhancement", done, total)
        yield token


def _generation_config(files: GemmaFiles) -> dict[str, Any]:
    """The optional file of the model's own sampling settings."""
    path = files.path / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; download it again or remove it")
    return content


def _sampling(options: EnhanceOptions, defaults: dict[str, Any]) -> Sampling:
    top_k = defaults.get("top_k") if options.top_k is None else options.top_k
    top_p = defaults.get("top_p") if options.top_p is None else options.top_p
    return Sampling(options.temperature, top_k or None, top_p)


def _stops(defaults: dict[str, Any]) -> frozenset[int]:
    ends = defaults.get("eos_token_id")
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
