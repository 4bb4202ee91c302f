"""The cache folder: entries whole or absent, damage found, room kept, work claimed once."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import time

import numpy as np
import pytest
from safetensors import safe_open

from ltx2.app.commands.cache import main as cache_command
from ltx2.errors import UserError
from ltx2.experiment.cache import claims
from ltx2.experiment.cache.entry import EntryWriter
from ltx2.experiment.cache.journal import DiskJournal
from ltx2.experiment.cache.store import DiskStore
from ltx2.experiment.session import Session, check_cache
from ltx2.pipelines.settings import CacheSettings

KEY, OTHER = "ab" * 32, "cd" * 32


def store_in(folder, **more):
    return DiskStore(folder / "cache", more.pop("max_bytes", 1e9), **more)


def arrays(value=1.0, size=1000):
    return {"video": np.full((2, size), value, np.float32), "audio": np.arange(6, dtype=np.float32)}


def test_an_entry_comes_back_as_it_was_put(tmp_path):
    store = store_in(tmp_path)
    store.put(KEY, "latents", arrays(), {"draws": [3], "steps": []})
    entry = store_in(tmp_path).find(KEY)
    np.testing.assert_array_equal(entry.array("video"), arrays()["video"])
    np.testing.assert_array_equal(entry.array("audio"), arrays()["audio"])
    assert entry.array("nothing") is None
    assert entry.about == {"draws": [3], "steps": []} and entry.kind == "latents"
    assert store.find(OTHER) is None


def test_an_entry_is_a_safetensors_file_that_others_can_read(tmp_path):
    store_in(tmp_path).put(KEY, "latents", arrays(), {})
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("video"), arrays()["video"])


def test_frames_written_in_parts_are_one_array(tmp_path):
    store, frames = store_in(tmp_path), np.arange(5 * 4, dtype=np.uint16).reshape(5, 4)
    with store.stream(KEY, "picture", frames.shape, "uint16", {}) as stream:
        stream.write(frames[:2])
        stream.write(frames[2:])
    np.testing.assert_array_equal(store.find(KEY).array("data"), frames)


def test_an_entry_that_fails_half_way_leaves_nothing(tmp_path):
    store = store_in(tmp_path)
    with pytest.raises(RuntimeError), store.stream(KEY, "picture", (4, 2), "uint16", {}) as stream:
        stream.write(np.zeros((2, 2), np.uint16))
        raise RuntimeError
    with store.stream(KEY, "picture", (4, 2), "uint16", {}) as stream:
        stream.write(np.zeros((2, 2), np.uint16))
        stream.drop()
    assert store.find(KEY) is None
    assert not [item for item in (tmp_path / "cache").rglob("*") if item.is_file()]


@pytest.mark.parametrize("place", [0, 30, 120, -1, -4000])
def test_one_changed_byte_anywhere_makes_an_entry_worthless(tmp_path, caplog, place):
    store_in(tmp_path).put(KEY, "latents", arrays(), {"draws": []})
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert store_in(tmp_path).find(KEY) is None
    assert "computed again" in caplog.text and not path.exists()


@pytest.mark.parametrize("size", [0, 5, 200, 2000])
def test_a_file_cut_short_is_no_entry(tmp_path, size):
    store_in(tmp_path).put(KEY, "latents", arrays(), {})
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    assert store_in(tmp_path).find(KEY) is None


def test_damage_after_the_first_look_is_found_too(tmp_path):
    store = store_in(tmp_path)
    store.put(KEY, "latents", arrays(), {})
    assert store.find(KEY) is not None
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.find(KEY) is None


def test_an_entry_under_another_name_is_not_taken(tmp_path):
    store = store_in(tmp_path)
    store.put(KEY, "latents", arrays(), {})
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    other = tmp_path / "cache" / OTHER[:2] / f"{OTHER}.safetensors"
    other.parent.mkdir()
    path.rename(other)
    assert store.find(OTHER) is None


def test_an_entry_stays_readable_while_it_is_held(tmp_path):
    store = store_in(tmp_path)
    store.put(KEY, "latents", arrays(7), {})
    entry = store.find(KEY)
    assert store.prune(0)[0] == 1
    np.testing.assert_array_equal(entry.array("video"), arrays(7)["video"])


def test_the_least_recently_used_goes_first(tmp_path):
    store = store_in(tmp_path, max_bytes=1e9)
    keys = [f"{i:02x}" * 32 for i in range(4)]
    for age, key in enumerate(keys):
        store.put(key, "latents", arrays(), {})
        path = tmp_path / "cache" / key[:2] / f"{key}.safetensors"
        stat = path.stat()
        os.utime(path, ns=(stat.st_mtime_ns - (10 - age) * 10**9, stat.st_mtime_ns))
    assert store.find(keys[0]) is not None  # used just now
    size = path.stat().st_size
    assert store.prune(2.5 * size)[0] == 2
    assert [store.find(key) is not None for key in keys] == [True, False, False, True]


def test_the_folder_keeps_to_its_size_while_it_is_written(tmp_path):
    store = store_in(tmp_path, max_bytes=50_000)
    for index in range(30):
        store.put(f"{index:02x}" * 32, "latents", arrays(), {})
    total = sum(item.bytes for item in store.entries())
    assert 25_000 < total <= 60_000


def test_refresh_ignores_what_was_there_and_replaces_it(tmp_path):
    store_in(tmp_path).put(KEY, "latents", arrays(1), {})
    fresh = store_in(tmp_path, refresh=True)
    assert fresh.find(KEY) is None
    fresh.put(KEY, "latents", arrays(2), {})
    assert fresh.find(KEY).array("video")[0, 0] == 2
    assert store_in(tmp_path).find(KEY).array("video")[0, 0] == 2


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("")
    store = DiskStore(blocker / "cache", 1e9)
    with caplog.at_level(logging.WARNING):
        store.put(KEY, "latents", arrays(), {})
        store.put(OTHER, "latents", arrays(), {})
        with store.claim(KEY) as entry:
            assert entry is None
        assert store.journal(KEY) is None
    assert caplog.text.count("cannot be written") == 1
    assert "cache=off" in caplog.text


def test_a_full_disk_costs_one_warning_and_leaves_no_part(tmp_path, caplog, monkeypatch):
    def full(self, part):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = store_in(tmp_path)
    monkeypatch.setattr(EntryWriter, "write", full)
    with caplog.at_level(logging.WARNING):
        store.put(KEY, "latents", arrays(), {})
        store.put(OTHER, "latents", arrays(), {})
    assert caplog.text.count("No space left on device") == 1
    assert not [item for item in (tmp_path / "cache").rglob("*") if item.is_file()]


def compute(folder, start, results):
    """What a worker does: claim, compute unless it is there, keep."""
    store = DiskStore(folder, 1e9)
    start.wait()
    with store.claim(KEY) as entry:
        if entry is None:
            time.sleep(0.3)
            store.put(KEY, "latents", arrays(os.getpid()), {})
            results.put("computed")
        else:
            results.put("reused")


def test_of_many_workers_one_computes(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    folder = tmp_path / "cache"
    workers = [context.Process(target=compute, args=(folder, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    told = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert told == ["computed", "reused", "reused", "reused"]


def dead_claim(store):
    """A claim whose owner was killed."""
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    claim = store.claim(KEY)
    claim._owner = claim._owner.replace(f" {os.getpid()} ", f" {process.pid} ")
    claim._take()


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    store = store_in(tmp_path)
    dead_claim(store)
    started = time.monotonic()
    with store.claim(KEY) as entry:
        assert entry is None
    assert time.monotonic() - started < 5


def test_a_claim_from_another_machine_counts_until_it_is_no_longer_renewed(tmp_path, monkeypatch):
    store = store_in(tmp_path)
    other = store.claim(KEY)
    other._owner = "elsewhere 1 x"
    other._take()
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    started = time.monotonic()
    with store.claim(KEY):
        waited = time.monotonic() - started
    assert 0.3 < waited < 10


def test_a_journal_replays_what_was_flushed_and_nothing_damaged(tmp_path):
    journal = DiskJournal(tmp_path / "running" / KEY)
    for index in range(3):
        journal.add(index, {"video": np.full((1, 4, 2), index, np.float32)})
    assert journal.replay(0) is None  # not yet on disk
    journal.flush()
    again = DiskJournal(tmp_path / "running" / KEY)
    assert [float(again.replay(i)["video"].mean()) for i in range(3)] == [0, 1, 2]
    assert again.replay(3) is None
    path = next((tmp_path / "running" / KEY).glob("00001*"))
    path.write_bytes(path.read_bytes()[:-3])
    assert again.replay(1) is None and again.replay(2) is not None
    assert DiskJournal(tmp_path / "running" / KEY, afresh=True).replay(0) is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"mode": "onn"}, "cache.mode=onn is unknown"),
        ({"weights": "size"}, "cache.weights=size is unknown"),
        ({"max_gb": 0.0}, "cache.max_gb=0 must be more than 0"),
        ({"max_gb": float("nan")}, "cache.max_gb=nan must be more than 0"),
        ({"media_mb": -1.0}, "cache.media_mb=-1 must be 0"),
    ],
)
def test_a_value_that_means_nothing_is_refused(change, line):
    with pytest.raises(UserError, match=line.replace(".", r"\.")):
        check_cache(CacheSettings(**change))


def test_off_keeps_nothing():
    assert Session().keeping(CacheSettings(mode="off")).store is None


def test_the_command_lists_prunes_and_verifies(tmp_path, capsys):
    store, folder = store_in(tmp_path), ["--folder", str(tmp_path / "cache")]
    store.put(KEY, "latents", arrays(), {"stage": "base", "model": "pocket"})
    store.put(OTHER, "text", arrays(), {"stage": "text"})
    assert cache_command(["ls", "--long", *folder]) == 0
    told = capsys.readouterr().out
    assert "pocket" in told and "total           2 results" in told
    (path,) = (tmp_path / "cache" / KEY[:2]).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert cache_command(["verify", *folder]) == 1
    assert f"damaged, deleted: {path}" in capsys.readouterr().out
    assert cache_command(["verify", *folder]) == 0
    assert cache_command(["prune", "--max-gb", "0", *folder]) == 0
    assert not list(store.entries())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["prune"], "prune needs a size"),
        (["prune", "--max-gb", "-1"], "must be 0 or more"),
        (["ls", "--max-gb", "1"], "--max-gb has no effect on ls"),
        (["verify", "--long"], "--long has no effect on verify"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(tmp_path, arguments, line):
    with pytest.raises(UserError, match=line):
        cache_command([*arguments, "--folder", str(tmp_path)])


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder; give the cache with --folder"):
        cache_command(["ls", "--folder", str(tmp_path / "nowhere")])
