"""Golden components of the text path: tokenizer, encoder, features and contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltx2 import ops
from ltx2.models.connectors import Connector
from ltx2.models.text_features import Features
from ltx2.models.tokenizer import MAX_TOKENS, Prompt
from ltx2.ops import Array
from ltx2.parity.registry import Case, Outputs, component
from ltx2.pipelines.components import text
from ltx2.pipelines.components.gemma import load_gemma, read_gemma
from ltx2.pipelines.durations import clip_frames, load_duration_head, snapped
from ltx2.pipelines.settings import DurationSettings
from ltx2.weights.header import Header, read_header

_STEPS = {"every": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}


@component("text.tokenizer")
def tokenize(case: Case) -> Outputs:
    """Left-padded ids of every prompt, and how many are tokens."""
    tokenizer = read_gemma(case.checkpoints[0]).tokenizer()
    length = case.settings.get("max_length", MAX_TOKENS)
    prompts = [tokenizer(p["text"], length) for p in case.settings["prompts"]]
    return {
        "input_ids": np.stack([tokenizer.pad_left(p, length) for p in prompts]),
        "valid_tokens": np.array([len(p.ids) for p in prompts], np.int32),
    }


@component("text.encoder")
def encode(case: Case) -> Outputs:
    """Hidden states of the last `stored_tokens` positions of the left-padded sequence."""
    model = load_gemma(read_gemma(case.checkpoints[0]), case.backend, case.dtype)
    states = text.encode_states(model, Prompt(case.inputs["valid_ids"], 0))
    kept = case.settings.get("stored_tokens", len(case.inputs["valid_ids"]))
    return {f"hidden.{i}": case.numpy(x)[:, -kept:] for i, x in enumerate(states)}


@component("text.context")
def context(case: Case) -> Outputs:
    """A prompt to features and contexts; features of padding are the projection's bias."""
    files = read_gemma(case.checkpoints[0])
    header = _connector_file(case)
    tokenizer = files.tokenizer()
    model = load_gemma(files, case.backend, case.dtype)
    states = text.encode_states(model, tokenizer(case.settings["prompt"]))
    features, connectors = _load(case, header, files.config.feature_width)
    pair = features(states)
    rows = _rows(case.settings["context_rows"], MAX_TOKENS)
    out = _contexts(case, connectors, pair, MAX_TOKENS, rows)
    kept = case.settings.get("stored_feature_tokens", MAX_TOKENS)
    for stream, x in zip(("video", "audio"), pair, strict=True):
        out[f"features_{stream}"] = _last_rows(case, features, stream, x, kept)
    out["context_mask"] = np.ones((1, MAX_TOKENS), np.int32)
    return out


@component("text.connector")
def connect(case: Case) -> Outputs:
    """Given hidden states of several samples to features of their tokens, and contexts.

    Each sample is its tokens alone: on which side a batch pads them makes no difference.
    """
    hidden = case.inputs["hidden_valid"]  # (all tokens, C, L)
    features, connectors = _load(case, _connector_file(case), hidden.shape[1] * hidden.shape[2])
    sequence = case.settings["sequence"]
    rows = _rows(case.settings["context_rows"], sequence)
    counts = [sample["valid"] for sample in case.settings["samples"]]
    outputs: list[Outputs] = []
    for part in np.split(hidden, np.cumsum(counts)[:-1]):
        states = [case.backend.array(part[None, :, :, i], case.dtype) for i in range(part.shape[2])]
        pair = features(states)
        out = _contexts(case, connectors, pair, sequence, rows)
        out["features_video"], out["features_audio"] = (case.numpy(x)[0] for x in pair)
        outputs.append(out)
    return {name: np.concatenate([out[name] for out in outputs]) for name in outputs[0]}


def _headers(case: Case) -> list[Header]:
    return [read_header(path) for path in case.checkpoints if path.is_file()]


def _connector_file(case: Case) -> Header:
    return next(header for header in _headers(case) if "config" in header.metadata)


def _load(case: Case, header: Header, width: int) -> tuple[Features, dict[str, Connector]]:
    """Projections and connectors; the projections may stand in another file of the case."""
    headers = [header, *_headers(case)]
    source = next(f for f in headers if any(n.startswith(text.PROJECTION) for n in f.tensors))
    section = header.config["transformer"]
    features = text.load_features(section, source, width, case.backend, case.dtype)
    return features, text.load_connectors(header, case.backend, case.dtype)


def _contexts(
    case: Case,
    connectors: dict[str, Connector],
    pair: Sequence[Array],
    sequence: int,
    rows: np.ndarray,
) -> Outputs:
    return {
        f"{stream}_context": case.numpy(connectors[stream](x, sequence))[:, rows]
        for stream, x in zip(("video", "audio"), pair, strict=True)
    }


def _last_rows(case: Case, features: Features, stream: str, x: Array, kept: int) -> np.ndarray:
    """The last rows of left-padded features; padding has zero input, so its row is the bias."""
    found = case.numpy(x)[:, -kept:]
    bias = getattr(getattr(features, f"{stream}_aggregate_embed", None), "bias", None)
    row = np.zeros(found.shape[-1]) if bias is None else ops.to_numpy(bias)
    padding = np.broadcast_to(row, (1, kept - found.shape[1], found.shape[-1]))
    return np.concatenate([padding, found], axis=1).astype(np.float32)


def _rows(setting: str | Sequence[int], sequence: int) -> np.ndarray:
    """Stored positions: a list, or words such as "every third, from 0"."""
    if not isinstance(setting, str):
        return np.array(setting)
    words = setting.replace(",", " ").split()
    step = _STEPS[words[1]] if len(words) > 1 and words[1] in _STEPS else 1
    start = int(words[-1]) if words[-1].isdigit() else 0
    return np.arange(start, sequence, step)


@component("duration_head")
def duration(case: Case) -> Outputs:
    """Seconds from each kind of context, and the frame counts that seconds stand for."""
    head = load_duration_head(read_header(case.checkpoints[0]), case.backend, case.dtype)
    video, audio = case.array("video_tokens"), case.array("audio_tokens")
    given = case.settings
    limits = DurationSettings(given["min_seconds"], given["max_seconds"])
    both = case.numpy(head(video, audio))

    def frames(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.array([clip_frames(seconds, fps, limits) for seconds, fps in pairs], np.int64)

    table = [(float(s), fps) for s in both for fps in given["frame_rates"]]
    return {
        "both": both,
        "video_only": case.numpy(head(video, None)),
        "audio_only": case.numpy(head(None, audio)),
        "num_frames": frames(table).reshape(len(both), -1),
        "clamped_frames": frames(given["clamp_table_seconds_fps"]),
        "snapped": np.array([snapped(count) for count in given["snap_inputs"]], np.int64),
    }
