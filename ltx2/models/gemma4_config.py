"""Architecture of the Gemma 4 text tower of LTX-2.5 (spec text.md section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx2.errors import UserError
from ltx2.models.gemma_config import (
    GLOBAL,
    LOCAL,
    SIZES,
    RopeScale,
    check_family,
    check_required,
    read_layer_types,
    read_size,
    read_window,
)

MODEL_TYPES = ("gemma4_unified", "gemma4_unified_text")
# Features of other family members that would change the hidden states.
REQUIRED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": False,
}


@dataclass(frozen=True)
class Gemma4Config:
    """Sizes and switches; `layer_types` has one entry per layer, `window` is in tokens.

    `values_are_keys`: global layers have no value projection.
    """

    hidden: int
    intermediate: int
    heads: int
    local_kv_heads: int
    global_kv_heads: int
    local_head_dim: int
    global_head_dim: int
    values_are_keys: bool
    vocabulary: int
    eps: float
    window: int | None
    layer_types: tuple[str, ...]
    local_rope: RopeScale
    global_rope: RopeScale

    @property
    def feature_width(self) -> int:
        """Values per token that the text projections read: all hidden states, flattened."""
        return self.hidden * (len(self.layer_types) + 1)

    def width(self, kind: str) -> int:
        """Channels per head of a layer type."""
        return self.local_head_dim if kind == LOCAL else self.global_head_dim

    def kv_heads(self, kind: str) -> int:
        """Key/value heads of a layer type."""
        return self.local_kv_heads if kind == LOCAL else self.global_kv_heads

    def rope(self, kind: str) -> RopeScale:
        return self.local_rope if kind == LOCAL else self.global_rope

    @classmethod
    def from_metadata(cls, config: Mapping[str, Any]) -> Gemma4Config:
        """From the parsed config, multimodal (`text_config` inside) or text only.

        Raises UserError for another model family, a missing size or an unsupported switch.
        """
        check_family(config, MODEL_TYPES)
        section = config.get("text_config", config)
        check_required(section, REQUIRED)
        if section.get("use_bidirectional_attention") not in (None, False, "vision"):
            given = section["use_bidirectional_attention"]
            raise UserError(
                f"Gemma config use_bidirectional_attention={given} is not supported; prompts are"
                " read causally"
            )
        size = {key: read_size(section, key) for key in (*SIZES, "vocab_size")}
        shared = bool(section.get("attention_k_eq_v", False))
        kv_key = "num_global_key_value_heads" if shared else "num_key_value_heads"
        return cls(
            hidden=size["hidden_size"],
            intermediate=size["intermediate_size"],
            heads=size["num_attention_heads"],
            local_kv_heads=size["num_key_value_heads"],
            global_kv_heads=read_size(section, kv_key),
            local_head_dim=int(section.get("head_dim", 256)),
            global_head_dim=int(section.get("global_head_dim", 512)),
            values_are_keys=shared,
            vocabulary=size["vocab_size"],
            eps=float(section.get("rms_norm_eps", 1e-6)),
            window=read_window(section),
            # The last layer is global whatever the pattern says.
            layer_types=(*read_layer_types(section, size["num_hidden_layers"])[:-1], GLOBAL),
            local_rope=_rope(section, LOCAL, "default", 1e4, 1.0),
            global_rope=_rope(section, GLOBAL, "proportional", 1e6, 0.25),
        )


def _rope(
    section: Mapping[str, Any], kind: str, method: str, theta: float, share: float
) -> RopeScale:
    given = (section.get("rope_parameters") or {}).get(kind) or {}
    found = given.get("rope_type", method)
    if found != method or float(given.get("factor") or 1) != 1:
        raise UserError(
            f"Gemma config rope_type={found} (factor {given.get('factor')}) of {kind} layers is"
            f" not supported; it must be {method}, unscaled"
        )
    return RopeScale(
        float(given.get("rope_theta", theta)), 1.0, float(given.get("partial_rotary_factor", share))
    )
