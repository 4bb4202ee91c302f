"""Architecture of a Gemma 3 text tower, read from the `config.json` beside its weights.

Published files leave out values that equal the model family's own defaults; those defaults are
the ones of spec text.md section 3. Sizes that differ between family members have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError

LOCAL, GLOBAL = "sliding_attention", "full_attention"
MODEL_TYPES = ("gemma3", "gemma3_text")
REQUIRED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}


@dataclass(frozen=True)
class RopeScale:
    """Rotary base, and the divisor of the positions (linear scaling; 1 is none)."""

    theta: float
    factor: float


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes and switches; `layer_types` has one entry per layer, `window` is in tokens."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    eps: float
    query_scalar: float
    window: int | None
    layer_types: tuple[str, ...]
    local_rope: RopeScale
    global_rope: RopeScale

    @property
    def feature_width(self) -> int:
        """Values per token that the text projections read: all hidden states, flattened."""
        return self.hidden * (len(self.layer_types) + 1)

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> GemmaConfig:
        """From the parsed `config.json`, multimodal (`text_config` inside) or text only.

        Raises UserError for another model family, a missing size or an unsupported switch.
        """
        check_family(config)
        section = config.get("text_config", config)
        _check_required(section)
        size = {key: _size(section, key) for key in _SIZES}
        return cls(
            hidden=size["hidden_size"],
            intermediate=size["intermediate_size"],
            heads=size["num_attention_heads"],
            kv_heads=size["num_key_value_heads"],
            head_dim=int(section.get("head_dim", 256)),
            vocabulary=int(section.get("vocab_size", 262208)),
            eps=float(section.get("rms_norm_eps", 1e-6)),
            query_scalar=float(section.get("query_pre_attn_scalar", 256)),
            window=_window(section),
            layer_types=_layer_types(section, size["num_hidden_layers"]),
            local_rope=_rope(section, LOCAL, "rope_local_base_freq", 1e4),
            global_rope=_rope(section, GLOBAL, "rope_theta", 1e6),
        )


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def check_family(config: Mapping[str, Any]) -> None:
    """Raise UserError unless `model_type` is Gemma 3."""
    family = config.get("model_type")
    if str(family).startswith("gemma4"):
        raise UserError(
            f"model_type={family}: Gemma 4 text encoders (LTX-2.5) are not built yet;"
            " use an LTX-2 or LTX-2.3 model with its Gemma 3 directory"
        )
    if family not in MODEL_TYPES:
        raise UserError(
            f"model_type={family} is not a text encoder of LTX-2; use a Gemma 3 12B directory"
            f" (model_type {' or '.join(MODEL_TYPES)})"
        )


def _check_required(section: Mapping[str, Any]) -> None:
    for key, value in REQUIRED.items():
        given = section.get(key, value)
        if given != value and not (value is False and given is None):
            raise UserError(f"Gemma config {key}={given} is not supported; it must be {value}")


def _size(section: Mapping[str, Any], key: str) -> int:
    if key not in section:
        raise UserError(f"Gemma config.json has no '{key}'; download the file again")
    return int(section[key])


def _window(section: Mapping[str, Any]) -> int | None:
    if "sliding_window" not in section:
        raise UserError("Gemma config.json has no 'sliding_window'; download the file again")
    window = section["sliding_window"]
    return None if window is None else int(window)


def _layer_types(section: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    types = section.get("layer_types")
    if types is None:
        pattern = section.get("sliding_window_pattern", section.get("_sliding_window_pattern", 6))
        types = [LOCAL if (i + 1) % int(pattern) else GLOBAL for i in range(layers)]
    unknown = sorted(set(types) - {LOCAL, GLOBAL})
    if len(types) != layers or unknown:
        raise UserError(
            f"Gemma config layer_types has {len(types)} entries for {layers} layers"
            + (f" and the unknown types {', '.join(unknown)}" if unknown else "")
        )
    return tuple(types)


def _rope(section: Mapping[str, Any], kind: str, theta_key: str, default: float) -> RopeScale:
    """Newer files have `rope_parameters` per layer type, older ones flat keys and `rope_scaling`.

    The flat `rope_scaling` concerns the global layers alone.
    """
    given = dict((section.get("rope_parameters") or {}).get(kind) or {})
    theta = given.get("rope_theta", section.get(theta_key, default))
    if kind == GLOBAL:
        given |= section.get("rope_scaling") or {}
    method = given.get("rope_type", given.get("type", "default"))
    if method not in ("default", "linear"):
        raise UserError(f"Gemma config rope_type={method} is not supported; use default or linear")
    return RopeScale(float(theta), float(given["factor"]) if method == "linear" else 1.0)
