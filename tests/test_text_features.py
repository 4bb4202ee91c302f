"""Feature extractors and connectors against the specification's golden vectors (section 9)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from ltx2.errors import UserError
from ltx2.models.connectors import Connector, ConnectorConfig
from ltx2.models.text_features import SEPARATE, SeparateFeatures, SharedFeatures, features_class
from ltx2.nn.module import params

VALUES = json.loads((Path(__file__).parent / "data" / "golden_spec.json").read_text())
D, LAYERS, SEQUENCE, TOKENS, REGISTERS = 24, 5, 16, 6, 8


def fill_rule(name: str, shape, base=0.0, scale=1.0) -> np.ndarray:
    count = int(np.prod(shape))
    j, c = np.arange(count, dtype=np.float64), zlib.crc32(name.encode()) % 1000
    values = base + scale * np.sin(0.731 * j + 0.113 * c + 0.0007 * j * j / count * c)
    return values.astype(np.float32).reshape(shape)


def weight(name: str, shape) -> np.ndarray:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return fill_rule(name, shape, 1.0, 0.2)
    if len(shape) == 1:
        return fill_rule(name, shape, 0.0, 0.1)
    if "registers" in name:
        return fill_rule(name, shape, 0.0, 0.3)
    return fill_rule(name, shape, 0.0, 1.6 / np.sqrt(shape[-1]))


def filled(module, prefix, backend):
    for slot in params(module):
        slot.replace(backend.array(weight(prefix + slot.name, slot.value.shape)))
    return module


def golden(key: str) -> np.ndarray:
    return np.array(VALUES[f"text/{key}"], np.float32).reshape(SEQUENCE, -1)


def hidden_states(backend, name="hs.{}"):
    full = [fill_rule(name.format(i), (1, SEQUENCE, D), 0.0, 1 + 0.5 * i) for i in range(LAYERS)]
    return [backend.array(x[:, -TOKENS:]) for x in full]


def connector(prefix, heads, head_dim, gated, backend):
    config = ConnectorConfig.from_metadata(
        {
            "connector_num_attention_heads": heads,
            "connector_attention_head_dim": head_dim,
            "connector_num_learnable_registers": REGISTERS,
            "connector_positional_embedding_max_pos": [4096],
            "connector_apply_gated_attention": gated,
            "frequencies_precision": "float64",
        },
        "video",
    )
    return filled(Connector.declare(config), prefix, backend)


def test_shared_features_and_contexts_equal_the_golden(backend):
    features = filled(SharedFeatures.declare(D * LAYERS, D, D), "", backend)
    video, audio = features(hidden_states(backend))
    np.testing.assert_allclose(backend.numpy(video)[0], golden("v1_features")[-TOKENS:], atol=2e-5)
    for x, prefix, key in ((video, "v1v.", "v1_video"), (audio, "v1a.", "v1_audio")):
        context = connector(prefix, 3, 8, False, backend)(x, SEQUENCE)
        np.testing.assert_allclose(backend.numpy(context)[0], golden(key), atol=2e-5)


def test_separate_features_and_contexts_equal_the_golden(backend):
    features = filled(SeparateFeatures.declare(D * LAYERS, 32, 16), "", backend)
    pair = features(hidden_states(backend))
    for x, stream, prefix, head_dim in zip(
        pair, ("video", "audio"), ("v2v.", "v2a."), (8, 4), strict=True
    ):
        want = golden(f"v2_{stream}_features")[-TOKENS:]
        np.testing.assert_allclose(backend.numpy(x)[0], want, atol=2e-5)
        context = connector(prefix, 4, head_dim, True, backend)(x, SEQUENCE)
        np.testing.assert_allclose(backend.numpy(context)[0], golden(f"v2_{stream}"), atol=2e-5)


def test_registers_stand_at_their_absolute_position(backend):
    model = connector("v1v.", 3, 8, False, backend)
    x = backend.array(np.full((2, 3, D), 7.0, np.float32))
    rows = backend.numpy(model._fill(x, SEQUENCE))
    registers = backend.numpy(model.learnable_registers)
    np.testing.assert_array_equal(rows[1, 3:8], registers[3:])
    np.testing.assert_array_equal(rows[0, 8:], registers)
    assert (rows[:, :3] == 7).all()


def test_a_sequence_that_registers_do_not_divide_is_refused(backend):
    with pytest.raises(UserError, match="20 is not a multiple of the model's 8 registers"):
        connector("v1v.", 3, 8, False, backend)(backend.array(np.zeros((1, 3, D))), 20)


def test_metadata_selects_the_extractor():
    assert features_class({}) is SharedFeatures
    assert features_class(dict(SEPARATE)) is SeparateFeatures
    with pytest.raises(UserError, match="caption_proj_input_norm=absent"):
        features_class({"caption_proj_before_connector": True})


@pytest.mark.parametrize(
    ("name", "video", "audio", "layers", "gated"),
    [
        ("ltx-2-19b-config", 3840, 3840, 2, False),
        ("ltx-2.3-22b-config", 4096, 2048, 8, True),
    ],
)
def test_published_metadata_gives_the_documented_connectors(name, video, audio, layers, gated):
    text = json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text())
    section = text["transformer"]
    for stream, width in (("video", video), ("audio", audio)):
        config = ConnectorConfig.from_metadata(section, stream)
        assert (config.width, config.layers, config.gated) == (width, layers, gated)
        assert (config.max_pos, config.registers, config.float64_grid) == ((4096.0,), 128, True)
        assert config.split_rope and config.ff_bias
