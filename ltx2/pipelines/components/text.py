"""Prompts to the contexts that the diffusion transformer reads (spec text.md).

Two phases that never share memory: the language model encodes all prompts and is freed, then
the projections and connectors turn its hidden states into contexts.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.connectors import Connector, ConnectorConfig
from ltx2.models.gemma4_config import Gemma4Config
from ltx2.models.gemma_tower import GemmaTower
from ltx2.models.text_features import Features, features_class
from ltx2.models.tokenizer import MAX_TOKENS, Prompt
from ltx2.ops import Array
from ltx2.pipelines.checks import CheckFailed
from ltx2.pipelines.components.gemma import GemmaFiles, load_gemma, read_gemma
from ltx2.weights import build
from ltx2.weights.header import Header
from ltx2.weights.quantise import UNPACKED, Quantisation
from ltx2.weights.streaming import Streaming

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # what, done, of how many

PROJECTION = "text_embedding_projection."
_TRANSFORMER = "model.diffusion_model."
CONNECTORS = {
    # Video-only files may call their single connector just that.
    "video": (f"{_TRANSFORMER}video_embeddings_connector.", f"{_TRANSFORMER}embeddings_connector."),
    "audio": (f"{_TRANSFORMER}audio_embeddings_connector.",),
}
DECLARES_GEMMA = (2, 4, 0)


@dataclass(frozen=True)
class TextContext:
    """Encoding of one prompt: contexts (1, S, D) and (1, S, D'), all rows valid; mostly S is 1024.

    `tokens` were read, `truncated` were cut off.
    """

    video: Array
    audio: Array
    tokens: int
    truncated: int


def encode_prompts(
    prompts: Sequence[str],
    gemma: Path,
    header: Header,
    backend: Any,
    dtypes: Mapping[str, str],
    progress: Progress | None = None,
    quantisation: Quantisation = UNPACKED,
    streaming: Streaming | None = None,
) -> list[TextContext]:
    """One context per prompt, in order; equal prompts are encoded once and shared.

    `gemma` is the text encoder's folder or packed file, `header` that of the transformer's file.
    `dtypes` has the entries text_encoder and connectors; `quantisation` and `streaming` are those
    of the encoder's layers. Raises UserError for files that do not belong together, before any
    weight is read.
    """
    _check_dtype(dtypes["text_encoder"])
    files = check_text_files(gemma, header)
    tokenizer = files.tokenizer()
    tokens = {text: tokenizer(text) for text in prompts}
    report = progress or _silent
    model = load_gemma(files, backend, dtypes["text_encoder"], quantisation, streaming)
    states = _encode_states(tokens, model, files.sequence, report)
    del model
    backend.free()
    contexts = _connect(states, header, files, backend, dtypes["connectors"], report)
    backend.free()
    for text, (video, audio) in contexts.items():
        _check_finite(text, (video, audio), dtypes)
    return [
        TextContext(*contexts[text], len(tokens[text].ids), tokens[text].truncated)
        for text in prompts
    ]


def check_text_files(gemma: Path, header: Header) -> GemmaFiles:
    """Check from headers alone that the text encoder and the transformer's file work together.

    Raises UserError (spec text.md section 12); returns what was read of the text encoder.
    """
    section = _section(header)
    files = read_gemma(gemma)
    _check_version(files, header)
    source = projections_file(files, header)
    _check_width(files, source)
    files.match(files.declare())
    features, prefixes = declare_features(section, files.config.feature_width)
    build.match(features, source, prefixes, "text projections")
    for stream, connector in declare_connectors(section).items():
        connector.check_sequence(files.sequence)
        _match_connector(connector, header, stream)
    return files


def projections_file(files: GemmaFiles, header: Header) -> Header:
    """The file with the text projections: the transformer's, or the packed text encoder."""
    for file in (header, *files.shards):
        if any(name.startswith(PROJECTION) for name in file.tensors):
            return file
    raise UserError(
        f"neither {header.path.name} nor {files.path.name} holds the text projections"
        f" ('{PROJECTION}...'); LTX-2.5 has them in its packed text encoder"
        " (gemma4-12b-with-proj), LTX-2 and LTX-2.3 in the model file"
    )


def declare_features(section: Mapping[str, Any], width: int) -> tuple[Features, build.Prefixes]:
    """The extractor for hidden states of `width` values per token, and where its tensors stand."""
    video, audio = (ConnectorConfig.from_metadata(section, s).width for s in ("video", "audio"))
    return features_class(section).declare(width, video, audio), build.Prefixes((PROJECTION,))


def declare_connectors(section: Mapping[str, Any]) -> dict[str, Connector]:
    """The connectors of both streams."""
    return {
        "video": Connector.declare(ConnectorConfig.from_metadata(section, "video")),
        "audio": Connector.declare(ConnectorConfig.from_metadata(section, "audio")),
    }


def load_features(
    section: Mapping[str, Any], header: Header, width: int, backend: Any, dtype: str
) -> Features:
    """The projections in `header`, built as the transformer's metadata `section` says."""
    features, prefixes = declare_features(section, width)
    return build.load(features, header, prefixes, backend, dtype, "text projections")


def load_connectors(header: Header, backend: Any, dtype: str) -> dict[str, Connector]:
    """Video and audio connectors of the file that holds the transformer."""
    loaded = declare_connectors(_section(header))
    for stream, connector in loaded.items():
        found = _match_connector(connector, header, stream)
        build.fill(connector, found, backend, dtype)
    return loaded


def encode_states(model: GemmaTower, prompt: Prompt, sequence: int = MAX_TOKENS) -> list[Array]:
    """All hidden states (1, n, C) of the n tokens of one prompt, without padding."""
    if int(prompt.ids.max()) >= model.config.vocabulary:
        raise UserError(
            f"token id {int(prompt.ids.max())} is outside the text encoder's vocabulary of"
            f" {model.config.vocabulary}; tokenizer.json belongs to another model"
        )
    # The reference pads in front: the same positions give the same rounding of angles.
    return model(prompt.ids[None], start=sequence - len(prompt.ids))


def _encode_states(
    tokens: Mapping[str, Prompt], model: GemmaTower, sequence: int, report: Progress
) -> dict[str, list[Array]]:
    states = {}
    for done, (text, prompt) in enumerate(tokens.items()):
        report("text encoder", done, len(tokens))
        states[text] = encode_states(model, prompt, sequence)
        # Unevaluated states would keep the model alive.
        ops.evaluate(*states[text])
    report("text encoder", len(tokens), len(tokens))
    return states


def _connect(
    states: dict[str, list[Array]],
    header: Header,
    files: GemmaFiles,
    backend: Any,
    dtype: str,
    report: Progress,
) -> dict[str, tuple[Array, Array]]:
    """Consumes `states`: each prompt's are dropped once its contexts exist."""
    source, width = projections_file(files, header), files.config.feature_width
    features = load_features(_section(header), source, width, backend, dtype)
    connectors = load_connectors(header, backend, dtype)
    contexts = {}
    total = len(states)
    for done, text in enumerate(list(states)):
        report("text connectors", done, total)
        video, audio = features(states.pop(text))
        pair = (
            connectors["video"](video, files.sequence),
            connectors["audio"](audio, files.sequence),
        )
        ops.evaluate(*pair)
        contexts[text] = pair
    report("text connectors", total, total)
    return contexts


def _silent(what: str, done: int, total: int) -> None:
    log.debug("%s: %d of %d", what, done, total)


def _section(header: Header) -> dict[str, Any]:
    section = header.config.get("transformer")
    if not isinstance(section, dict):
        raise UserError(
            f"{header.path.name}: its metadata has no 'transformer' section; use the file that"
            " holds the diffusion transformer"
        )
    return section


def _match_connector(connector: Connector, header: Header, stream: str) -> list[build.Found]:
    prefixes = build.Prefixes(CONNECTORS[stream])
    return build.match(connector, header, prefixes, f"{stream} text connector")


def _check_version(files: GemmaFiles, header: Header) -> None:
    declared = _declared_gemma(header)
    if declared is not None:
        if declared != files.version:
            raise UserError(
                f"{header.path.name} was trained with text encoder '{declared}',"
                f" {files.path} is '{files.version or f'an unversioned {files.family}'}';"
                " use the text encoder published with the model"
            )
    elif header.model_version >= DECLARES_GEMMA:
        version = header.metadata["model_version"]
        problem = (
            f"{header.path.name} (model_version {version}) does not say which text encoder it was"
            " trained with"
        )
        if files.version is not None:
            raise UserError(f"{problem}; it cannot be checked against '{files.version}'")
        log.warning("%s; nor does %s", problem, files.path)
    elif isinstance(files.config, Gemma4Config):
        raise UserError(
            f"{header.path.name} needs Gemma 3 12B as its text encoder, but {files.path} is"
            " Gemma 4, which belongs to LTX-2.5"
        )


def _declared_gemma(header: Header) -> str | None:
    text = header.metadata.get("gemma_source_checkpoint")
    if text is None:
        return None
    try:
        return json.loads(text).get("gemma_version")
    except (ValueError, AttributeError):
        raise UserError(
            f"{header.path.name}: metadata 'gemma_source_checkpoint' is not a JSON object"
        ) from None


def _check_width(files: GemmaFiles, header: Header) -> None:
    names = [n for n in header.tensors if n.startswith(PROJECTION) and n.endswith(".weight")]
    config = files.config
    for name in names:
        width = header.tensors[name].shape[-1]
        if width != config.feature_width:
            raise UserError(
                f"{files.path} gives {config.feature_width} features per token"
                f" ({config.hidden} x {len(config.layer_types) + 1} hidden states), but"
                f" {header.path.name} was trained on {width}; use the Gemma of its release"
            )


def _check_dtype(dtype: str) -> None:
    if dtype == "fp16":
        raise UserError(
            "the text encoder overflows in fp16 (its activations reach 1e5); use bf16 or fp32"
        )


def _check_finite(text: str, contexts: tuple[Array, Array], dtypes: Mapping[str, str]) -> None:
    if not all(math.isfinite(ops.std(x)) for x in contexts):
        raise CheckFailed(
            f"text: the encoding of prompt {text[:40]!r} is NaN or Inf in text_encoder="
            f"{dtypes['text_encoder']}, connectors={dtypes['connectors']}; likely causes: damaged"
            " weights or a half-precision overflow; try dtype=fp32"
        )
