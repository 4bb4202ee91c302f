"""Gemma configs in the spellings that published files use."""

from __future__ import annotations

import pytest

from ltx2.errors import UserError
from ltx2.models.gemma_config import GLOBAL, LOCAL, GemmaConfig, RopeScale

PUBLISHED_12B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}


def changed(**values):
    return PUBLISHED_12B | {"text_config": PUBLISHED_12B["text_config"] | values}


def test_the_sparse_12b_config_gives_the_documented_architecture():
    config = GemmaConfig.from_metadata(PUBLISHED_12B)
    assert config.feature_width == 188160
    assert (config.head_dim, config.query_scalar, config.eps) == (256, 256.0, 1e-6)
    assert (config.vocabulary, config.window) == (262208, 1024)
    assert [i for i, kind in enumerate(config.layer_types) if kind == GLOBAL] == list(
        range(5, 48, 6)
    )
    assert config.local_rope == RopeScale(1e4, 1.0)
    assert config.global_rope == RopeScale(1e6, 8.0)


def test_new_and_old_rope_spellings_agree():
    new = {
        GLOBAL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        LOCAL: {"rope_type": "default", "rope_theta": 1e4},
    }
    spelled = changed(rope_parameters=new, rope_scaling=None, sliding_window_pattern=6)
    assert GemmaConfig.from_metadata(spelled) == GemmaConfig.from_metadata(PUBLISHED_12B)


def test_a_text_only_config_is_accepted():
    config = GemmaConfig.from_metadata(PUBLISHED_12B["text_config"])
    assert config == GemmaConfig.from_metadata(PUBLISHED_12B)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "model_type=llama is not a text encoder"),
        ({"model_type": "gemma4"}, "model_type=gemma4 is not a text encoder of LTX-2"),
        (changed(attn_logit_softcapping=50.0), "attn_logit_softcapping=50.0 is not supported"),
        (changed(use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        (changed(rope_scaling={"rope_type": "yarn"}), "rope_type=yarn"),
        (changed(layer_types=[LOCAL]), "1 entries for 48 layers"),
        ({"model_type": "gemma3", "text_config": {}}, "no 'hidden_size'"),
    ],
)
def test_an_unsupported_config_is_refused_with_the_reason(config, message):
    with pytest.raises(UserError, match=message):
        GemmaConfig.from_metadata(config)
