"""Batches of captions give the contexts that each caption alone gives."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ltx2.models.connectors import Connector, ConnectorConfig  # noqa: E402
from ltx2.models.text_features import SeparateFeatures, SharedFeatures  # noqa: E402
from ltx2.training.parameters import initialise  # noqa: E402

LENGTHS = np.array([5, 1, 3])


def states() -> list:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.standard_normal((3, 5, 8)).astype(np.float32)) for _ in range(2)]


@pytest.mark.parametrize(
    "features",
    [SharedFeatures.declare(16, 12, 12), SeparateFeatures.declare(16, 12, 8)],
    ids=["shared", "separate"],
)
def test_features_of_a_batch_are_those_of_each_prompt(features):
    initialise(features, 0)
    batch = features(states(), LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = features([x[row : row + 1, :length] for x in states()])
        for together, single in zip(batch, alone, strict=True):
            assert torch.allclose(together[row, :length], single[0], atol=1e-5)


def test_what_follows_a_prompt_does_not_reach_its_features():
    features = initialise(SharedFeatures.declare(16, 12, 12), 0)
    changed = states()
    for x in changed:
        x[1, 1:] = 1e4
    before, after = features(states(), LENGTHS)[0], features(changed, LENGTHS)[0]
    assert torch.equal(before[1, :1], after[1, :1])


def test_contexts_of_a_batch_are_those_of_each_prompt():
    config = ConnectorConfig(
        heads=2, head_dim=6, layers=2, registers=4, gated=False, ff_bias=True,
        max_pos=(8.0,), split_rope=True, float64_grid=True,
    )  # fmt: skip
    connector = initialise(Connector.declare(config), 1)
    features = torch.from_numpy(draw_features())
    batch = connector(features, 8, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = connector(features[row : row + 1, :length], 8)
        assert torch.allclose(batch[row], alone[0], atol=1e-5)


def draw_features() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((3, 5, 12)).astype(np.float32)
