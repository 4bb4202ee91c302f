"""Training states: killed at any step a run goes on to the same weights; bad ones are refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training_process import Doubling, trainer  # noqa: E402

from ltx2.errors import UserError  # noqa: E402
from ltx2.training.checkpoint import LATEST, load_state, save_state  # noqa: E402
from ltx2.training.modules import adopt  # noqa: E402

STEPS = 23


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors, facts = load_state(folder / LATEST)
    assert facts["step"] == STEPS
    return tensors


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture
def uninterrupted(tmp_path) -> dict[str, torch.Tensor]:
    trainer(tmp_path / "whole", STEPS).run()
    return weights(tmp_path / "whole")


def test_a_killed_run_goes_on_to_the_same_weights(uninterrupted, tmp_path):
    script = Path(__file__).with_name("training_process.py")
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(STEPS), "0.002"],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    last = random.randint(6, STEPS - 2)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= last:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert process.returncode != 0
    _, facts = load_state(folder / LATEST)
    assert 5 <= facts["step"] < STEPS
    trainer(folder, STEPS).run()
    assert_same(uninterrupted, weights(folder))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_to_the_same_weights(dtype, tmp_path):
    trainer(tmp_path / "whole", STEPS, dtype).run()
    first = trainer(tmp_path / "parts", STEPS, dtype)
    first.stop = lambda: first.step == 13
    with pytest.raises(KeyboardInterrupt):
        first.run()
    again = trainer(tmp_path / "parts", STEPS, dtype)
    assert again.step == 13
    again.run()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_what_is_not_trained_is_in_the_state_and_comes_back(tmp_path):
    made = trainer(tmp_path, STEPS)
    with torch.no_grad():
        made.objective.fixed.weight.fill_(3.0)
    made.run()
    assert float(trainer(tmp_path, STEPS).objective.fixed.weight.detach().mean()) == 3.0
    fresh = Doubling()
    adopt(fresh.modules, tmp_path / LATEST)
    assert float(fresh.fixed.weight.mean()) == 3.0
    state, _ = load_state(tmp_path / LATEST)
    assert torch.equal(fresh.net.weight, state["average.net.weight"])
    adopt(fresh.modules, tmp_path / LATEST, averaged=False)
    assert torch.equal(fresh.net.weight, state["master.net.weight"])


def test_a_loss_that_is_not_a_number_ends_the_run_and_leaves_the_last_good_state(tmp_path):
    made = trainer(tmp_path, STEPS, bad_from=12)
    with pytest.raises(UserError, match=r"stopped at step 12: the loss is nan 3 times in a row"):
        made.run()
    tensors, facts = load_state(tmp_path / LATEST)
    assert facts["step"] == 10
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_single_bad_batches_are_skipped(tmp_path):
    made = trainer(tmp_path, STEPS)
    good, seen = made.objective.loss, []

    def loss(step, rng):
        value, figures = good(step, rng)
        seen.append(step)
        return (value * float("inf") if len(seen) == 7 else value), figures

    made.objective.loss = loss
    made.run()
    assert len(seen) == STEPS + 1 and weights(tmp_path)


def test_a_truncated_state_is_refused_and_stays(tmp_path):
    trainer(tmp_path, STEPS).run()
    path = tmp_path / LATEST
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot be read .* it is damaged or cut off"):
        trainer(tmp_path, STEPS)
    assert path.exists()


def test_a_missing_state_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing.* does not exist; give a training run's"):
        load_state(tmp_path / "nothing.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / LATEST)
    with pytest.raises(UserError, match="is no training state"):
        trainer(tmp_path, STEPS)


def test_a_state_of_another_configuration_is_refused(tmp_path):
    trainer(tmp_path, STEPS).run()
    made = trainer(tmp_path / "other", STEPS)
    made.fingerprint = "another"
    with pytest.raises(UserError, match="belongs to another configuration"):
        made.resume(tmp_path / LATEST)


def test_a_state_of_another_architecture_is_refused(tmp_path):
    trainer(tmp_path, STEPS).run()
    with pytest.raises(UserError, match=r"does not hold 'net.weight' of shape \[6, 6\]"):
        trainer(tmp_path, STEPS, width=6)
    with pytest.raises(UserError, match=r"'net.weight' is \[4, 4\] instead of \[6, 6\]"):
        adopt(Doubling(width=6).modules, tmp_path / LATEST)
    with pytest.raises(UserError, match="holds none of the 2 tensors wanted, such as 'vae"):
        adopt({"vae": Doubling().net}, tmp_path / LATEST)


def test_a_full_disk_leaves_the_state_before(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system is not permitted here")
    try:
        trainer(folder, STEPS).run()
        before = (folder / LATEST).read_bytes()
        with pytest.raises(UserError, match=r"disk full while writing .*state\.safetensors"):
            save_state(folder / LATEST, {"weight": torch.zeros(100_000)}, {"step": 0})
        assert (folder / LATEST).read_bytes() == before
        assert [path.name for path in folder.iterdir()] == [LATEST]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
