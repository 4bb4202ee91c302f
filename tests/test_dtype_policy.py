"""The table of dtypes: every device has all components, and the exceptions are the known ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ltx2.errors import UserError
from ltx2.weights.dtype_policy import AUTO, COMPONENTS, dtype_policy

GPUS = [("cuda", True), ("mps", True), ("metal", True)]


@dataclass
class Device:
    kind: str
    fast_bf16: bool = True


@pytest.mark.parametrize("place", AUTO)
def test_a_row_has_every_component_and_the_vocoder_and_text_never_lose_range(place):
    found = dtype_policy(Device(*place))
    assert tuple(found) == COMPONENTS and set(found.values()) <= {"fp32", "bf16", "fp16"}
    assert found["vocoder"] == "fp32" and found["text_encoder"] != "fp16"


@pytest.mark.parametrize("place", GPUS)
def test_the_large_models_are_bf16_on_accelerators_that_have_it(place):
    found = dtype_policy(Device(*place))
    assert {found[name] for name in COMPONENTS[:3]} == {"bf16"}


def test_convolutions_are_float32_on_mps_whatever_half_precision_is_asked_for():
    for given in ("auto", "fp16"):
        found = dtype_policy(Device("mps"), given)
        assert [found[name] for name in COMPONENTS[3:]] == ["fp32"] * 4, given
    assert found["transformer"] == "fp16" and found["text_encoder"] == "bf16"


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_without_bf16_an_accelerator_runs_the_transformer_in_fp16_and_the_rest_in_fp32(kind):
    found = dtype_policy(Device(kind, False))
    assert found.pop("transformer") == "fp16" and set(found.values()) == {"fp32"}
    assert dtype_policy(Device(kind, False), "fp16")["text_encoder"] == "fp32"


def test_a_cpu_has_bf16_for_the_large_components_alone():
    found = dtype_policy(Device("cpu"))
    assert [found[name] for name in COMPONENTS] == ["bf16"] * 4 + ["fp32"] * 3
    assert set(dtype_policy(Device("cpu", False)).values()) == {"fp32"}


@pytest.mark.parametrize(
    ("device", "dtype", "overrides", "line"),
    [
        (Device("mps", False), "bf16", {}, "dtype=bf16 needs macOS 14"),
        (Device("mps"), "auto", {"video_vae": "fp16"}, "dtype.video_vae=fp16 gives black"),
        (Device("mps"), "auto", {"upsampler": "fp16"}, "dtype.upsampler=fp16 gives black"),
    ],
)
def test_what_a_mac_cannot_do_is_refused(device, dtype, overrides, line):
    with pytest.raises(UserError, match=line):
        dtype_policy(device, dtype, overrides)
