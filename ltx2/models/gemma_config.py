"""Architecture of a Gemma text tower, read from the config that comes with its weights.

Published files leave out values that equal the model family's own defaults; those defaults are
the ones of spec text.md sections 3 and 4. Sizes that differ between family members have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    """Rotary base, the divisor of the positions (linear scaling; 1 is none), and the share of a
    head's channels that turn, those of the highest frequencies."""

    theta: float
    factor: float
    share: float = 1.0


class TextConfig(Protocol):
    """What every text tower's config tells; `kind` is a layer type, `window` is in tokens."""

    @property
    def hidden(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def layer_types(self) -> tuple[str, ...]: ...
    @property
    def feature_width(self) -> int: ...
    def width(self, kind: str) -> int: ...
    def rope(self, kind: str) -> RopeScale: ...


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

    def width(self, kind: str) -> int:
        """Channels per head."""
        return self.head_dim

    def rope(self, kind: str) -> RopeScale:
        return self.local_rope if kind == LOCAL else self.global_rope

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> GemmaConfig:
        """From the parsed `config.json`, multimodal (`text_config` inside) or text only.

        Raises UserError for another model family, a missing size or an unsupported switch.
        """
        check_family(config, MODEL_TYPES)
        section = config.get("text_config", config)
        check_required(section, REQUIRED)
        size = {key: read_size(section, key) for key in SIZES}
        return cls(
            hidden=size["hidden_size"],
            intermediate=size["intermediate_size"],
            heads=size["num_attention_heads"],
            kv_heads=size["num_key_value_heads"],
            head_dim=int(section.get("head_dim", 256)),
            vocabulary=int(section.get("vocab_size", 262208)),
            eps=float(section.get("rms_norm_eps", 1e-6)),
            query_scalar=float(section.get("query_pre_attn_scalar", 256)),
            window=read_window(section),
            layer_types=read_layer_types(section, size["num_hidden_layers"]),
            local_rope=_rope(section, LOCAL, "rope_local_base_freq", 1e4),
            global_rope=_rope(section, GLOBAL, "rope_theta", 1e6),
        )


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def check_family(config: Mapping[str, Any], accepted: Sequence[str]) -> None:
    """Raise UserError unless `model_type` is one of `accepted`."""
    family = config.get("model_type")
    if family not in accepted:
        raise UserError(
            f"model_type={family} is not a text encoder of LTX-2; use the Gemma 3 12B directory"
            " (LTX-2, LTX-2.3: model_type gemma3) or LTX-2.5's own Gemma 4 (gemma4_unified)"
        )


def check_required(section: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    """Raise UserError for a switch whose only supported value is another; absent means it."""
    for key, value in required.items():
        given = section.get(key, value)
        if given != value and not (not value and given is None):
            raise UserError(f"Gemma config {key}={given} is not supported; it must be {value}")


def read_size(section: Mapping[str, Any], key: str) -> int:
    if key not in section:
        raise UserError(f"Gemma config.json has no '{key}'; download the file again")
    return int(section[key])


def read_window(section: Mapping[str, Any]) -> int | None:
    if "sliding_window" not in section:
        raise UserError("Gemma config.json has no 'sliding_window'; download the file again")
    window = section["sliding_window"]
    return None if window is None else int(window)


def read_layer_types(section: Mapping[str, Any], layers: int) -> tuple[str, ...]:
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
