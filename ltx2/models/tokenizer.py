"""Prompt text to token ids as the text encoder was trained to see them (spec text.md section 2).

Conversations, for rewriting prompts, are in the format of Gemma 3 (section 10).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2.errors import UserError

log = logging.getLogger(__name__)

MAX_TOKENS = 1024
FILES = ("tokenizer.json", "tokenizer_config.json")
TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"


@dataclass(frozen=True)
class Prompt:
    """Token ids (n,) int32 beginning with BOS, n at most the limit, and how many were cut off."""

    ids: np.ndarray
    truncated: int


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer with the ids of its special tokens; the model reads `limit` tokens."""

    tokenizer: Any
    bos: int
    pad: int
    eos: int | None = None
    limit: int = MAX_TOKENS

    @classmethod
    def from_directory(cls, directory: Path) -> PromptTokenizer:
        """Read `tokenizer.json` and `tokenizer_config.json`. Raises UserError if unusable."""
        check_tokenizer_files(directory)
        tokenizer, config = ((directory / name).read_text(encoding="utf-8") for name in FILES)
        return cls.from_texts(tokenizer, config, str(directory))

    @classmethod
    def from_texts(cls, tokenizer: str, config: str, source: str) -> PromptTokenizer:
        """From the JSON texts of the two files; `source` is for error messages."""
        from tokenizers import Tokenizer

        try:
            parsed = Tokenizer.from_str(tokenizer)
            names = json.loads(config)
        except Exception as error:  # the tokenizers library raises bare Exception
            reason = str(error).splitlines()[0]
            raise UserError(f"{source}: the tokenizer cannot be read ({reason})") from None
        parsed.no_padding()
        parsed.no_truncation()
        bos, eos, pad = (_token_id(parsed, names.get(f"{n}_token")) for n in ("bos", "eos", "pad"))
        pad = eos if pad is None else pad
        if bos is None or pad is None:
            absent = "bos_token" if bos is None else "pad_token or eos_token"
            raise UserError(f"{source}: tokenizer_config.json names no {absent} of the vocabulary")
        return cls(parsed, bos, pad, eos, sequence_length(names, source))

    def __call__(self, text: str, limit: int | None = None) -> Prompt:
        """Ids of the stripped `text`; the empty prompt is BOS alone. Warns when it cuts."""
        limit = self.limit if limit is None else limit
        ids = self.tokenizer.encode(text.strip(), add_special_tokens=False).ids
        # Some tokenizers of the family add BOS, some do not: exactly one is wanted.
        if ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        truncated = max(0, len(ids) - limit)
        if truncated:
            log.warning(
                "prompt %r... has %d tokens, the model reads %d: the last %d are cut off",
                *(text.strip()[:40], len(ids), limit, truncated),
            )
        return Prompt(np.array(ids[:limit], np.int32), truncated)

    def pad_left(self, prompt: Prompt, length: int | None = None) -> np.ndarray:
        """Ids (length,) int32 with padding in front."""
        length = self.limit if length is None else length
        return np.pad(prompt.ids, (length - len(prompt.ids), 0), constant_values=self.pad)

    def chat(self, system: str, user: str) -> np.ndarray:
        """Ids (n,) int32 of a conversation in which the model speaks next.

        Gemma 3 has no system turn: the text `system` opens the user's. Raises UserError for a
        tokenizer without turns.
        """
        if self._turn_ids() is None:
            raise UserError(
                f"this text encoder cannot generate: its tokenizer has no {TURN} and {END_OF_TURN};"
                " switch prompt enhancement off, or use a model with Gemma 3 as its text encoder"
            )
        text = f"{TURN}user\n{system}\n\n{user.strip()}{END_OF_TURN}\n{TURN}model\n"
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([self.bos, *ids], np.int32)

    @property
    def stops(self) -> frozenset[int]:
        """Ids that end what the model says: EOS and the end of its turn."""
        turn = self._turn_ids() or (None, None)
        return frozenset(i for i in (self.eos, turn[1]) if i is not None)

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def _turn_ids(self) -> tuple[int, int] | None:
        start, end = (self.tokenizer.token_to_id(token) for token in (TURN, END_OF_TURN))
        return None if start is None or end is None else (start, end)


def check_tokenizer_files(directory: Path) -> None:
    """Raise UserError when a tokenizer file is absent."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"{directory} has no {' and no '.join(missing)}; download the tokenizer files of the"
            " Gemma repository into it"
        )


def sequence_length(config: Mapping[str, Any], source: str) -> int:
    """Tokens that the model reads: `model_max_length` of tokenizer_config.json, 1024 at most.

    Released files say 1024, nothing, or 10^30.
    """
    told = config.get("model_max_length", MAX_TOKENS)
    if isinstance(told, bool) or not isinstance(told, int | float) or not told >= 1:
        raise UserError(
            f"{source}: model_max_length={told!r} of tokenizer_config.json is no number of tokens;"
            f" write a whole number from 1 to {MAX_TOKENS}"
        )
    return min(MAX_TOKENS, int(told))


def _token_id(tokenizer: Any, token: Any) -> int | None:
    """Id of a special token given as text or as {"content": text}."""
    content = token.get("content") if isinstance(token, dict) else token
    return None if content is None else tokenizer.token_to_id(content)
