"""logger=NAME: every option builds its tracker, and mistakes are one line."""

from __future__ import annotations

import dataclasses
import importlib
import socket
import subprocess
import sys

import pytest
import yaml

from ltx2.app.build import build
from ltx2.app.compose import compose
from ltx2.errors import UserError
from ltx2.experiment.trackers.base import Option, need
from ltx2.experiment.trackers.network import has_login, unreachable
from ltx2.pipelines.catalogue import conf_folder

OPTIONS = ["mlflow", "tensorboard", "trackio", "wandb"]


@pytest.mark.parametrize("option", OPTIONS)
def test_option_builds_its_tracker_with_every_key(option):
    node = compose([f"logger={option}"]).logger[option]
    module, _, name = node["_target_"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert (kind.NAME, issubclass(kind, Option)) == (option, True)
    keys = {f.name: f for f in dataclasses.fields(kind) if f.init}
    assert set(keys) == set(node) - {"_target_"}
    assert build(node) == kind()


def test_several_loggers_at_once_and_local_is_no_choice():
    assert sorted(compose(["logger=[local,wandb,tensorboard]"]).logger) == ["tensorboard", "wandb"]


def test_loading_the_options_loads_no_library():
    modules = ", ".join(f"ltx2.experiment.trackers.{option}" for option in OPTIONS)
    code = f"import {modules}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(done.stdout.split()) & {*OPTIONS, "pandas", "torch", "mlx", "hydra"}


def test_every_option_says_what_it_is_in_its_first_comment():
    for path in (conf_folder() / "logger").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# @package")
        assert lines[1].startswith("# ")
        assert yaml.safe_load("\n".join(lines)) is not None


def test_missing_package_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "no_such_logger").mkdir()  # like the folder that a tracker leaves behind
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("no_such_logger", "nor_this_one"):
        with pytest.raises(UserError, match=f"logger={name} needs {name}; pip install 'ltx2"):
            need(name)


def test_server_that_listens_is_reachable(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert unreachable(f"http://127.0.0.1:{port}") is None
    assert "Connection refused" in unreachable(f"http://127.0.0.1:{port}")
    assert "cannot be reached" in unreachable("http://no-such-host.invalid")


def test_proxy_is_asked_in_place_of_the_server(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert unreachable("http://no-such-host.invalid") is None


def test_netrc_says_whether_there_is_a_key(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai login user password x\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert has_login("api.wandb.ai")
    assert not has_login("elsewhere")
    file.write_text("machine api.wandb.ai nonsense")
    assert not has_login("api.wandb.ai")
