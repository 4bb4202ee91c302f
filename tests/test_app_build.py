"""Objects are built from config only when they belong to this package."""

from __future__ import annotations

import pytest

from ltx2.app.build import build
from ltx2.app.compose import compose
from ltx2.errors import UserError


def test_a_composed_backend_is_built(backend):
    built = build(compose([f"backend={backend.name}", "backend.device=cpu"]).backend)
    assert (type(built), built.device) == (type(backend), "cpu")


@pytest.mark.parametrize("target", ["os.getcwd", "builtins.open", "ltx2x.thing", "torch.zeros", ""])
def test_a_target_outside_the_package_is_refused(target):
    with pytest.raises(UserError, match="is refused"):
        build({"_target_": target})


def test_a_nested_target_outside_the_package_is_refused():
    inner = [{"deep": {"_target_": "os.getcwd"}}]
    with pytest.raises(UserError, match=r"os\.getcwd is refused"):
        build({"_target_": "ltx2.backends.torch.TorchBackend", "device": inner})


def test_a_users_mistake_in_a_constructor_stays_one():
    node = {"_target_": "ltx2.backends.torch.TorchBackend", "device": "tpu"}
    with pytest.raises(UserError, match=r"backend\.device=tpu is not available here"):
        build(node)


def test_a_class_that_does_not_exist_is_our_bug():
    with pytest.raises(RuntimeError, match="Nothing"):
        build({"_target_": "ltx2.backends.Nothing"})
