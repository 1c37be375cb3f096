import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from purify import PurifyError
from purify.errors import DiskFullError
from purify.grid import Cell, Named, Store, Suspect
from purify.grid.checkpoints import find, is_made, place, read_card, write
from purify.grid.folder import is_full
from purify.grid.lease import machine
from purify.grid.spec import canonical, fingerprint
from purify.grid.upkeep import rubbish, status, verify

CELL = Cell(Suspect("docstrings", Named("BadWord")))
INPUTS = {"rows": "r", "plm": "p"}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where a remote store's checkpoints are fetched to
    url = str(tmp_path / "s") if request.param == "local" else f"memory://{tmp_path.name}-{os.urandom(4).hex()}"
    return Store(url)


def record(cell=CELL, k=3):
    return {"spec": canonical(cell), "scores": {"acc": {"k": k, "n": 4}}, "inputs": {"source": "s"}}


def make(folder: Path):
    (folder / "weights").write_bytes(b"w" * 1000)
    return {"seconds": 1.0, "inputs": {"source": "s", **INPUTS}}


def test_what_is_put_is_found_again(store):
    assert store.get(CELL) is None
    store.put(CELL, record())
    assert store.get(CELL)["scores"] == {"acc": {"k": 3, "n": 4}}
    assert store.recorded() == {fingerprint(CELL)}
    assert store.all_records() == [store.get(CELL)]
    assert json.loads(store.folder.read("store.json")) == {"schema": 2}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-20], "cut off"),
        (lambda content: content.replace(b'"k": 3', b'"k": 4'), "checksum"),
        (lambda content: b"", "cut off"),
    ],
)
def test_a_damaged_record_is_named_set_aside_and_counts_as_not_run(store, caplog, damage, reason):
    name = f"{fingerprint(CELL)}.json"
    store.put(CELL, record())
    store.record_folders[0].write(name, damage(store.record_folders[0].read(name)))
    (fault,) = [fault for _, fault in verify(store)]
    assert reason in fault
    assert store.get(CELL) is None
    assert f"{name} is damaged" in caplog.text
    assert not (store.folder / "aside").names()  # that is for those who hold the lease
    assert store.get(CELL, repair=True) is None
    assert f"{name} cannot be used" in caplog.text
    (aside,) = (store.folder / "aside").names()
    assert aside.startswith(name)
    store.put(CELL, record())
    assert [fault for _, fault in verify(store)] == [""]


def test_a_record_under_a_wrong_name_is_damaged(store):
    store.put(CELL, record(Cell(CELL.suspect, test=7)))
    assert store.get(CELL) is None


def test_a_store_or_record_of_a_newer_schema_is_refused_and_left_alone(store):
    store.put(CELL, record())
    content = store.record_folders[0].read(f"{fingerprint(CELL)}.json").replace(b'"schema": 2', b'"schema": 99')
    store.record_folders[0].write(f"{fingerprint(CELL)}.json", content)
    with pytest.raises(PurifyError, match="schema 99, newer than 2: update purify"):
        store.get(CELL)
    store.folder.write("store.json", b'{"schema": 3}')
    with pytest.raises(PurifyError, match="has schema 3, newer than 2: update purify"):
        store.check()


def test_shipped_records_are_read_and_never_written_or_moved(tmp_path):
    shipped = Store(tmp_path / "shipped")
    shipped.put(CELL, record())
    folder = shipped.record_folders[0]
    ours = Store(tmp_path / "ours", (tmp_path / "ours" / "records", folder.url))
    assert ours.get(CELL) == shipped.get(CELL)
    folder.write(f"{fingerprint(CELL)}.json", b"{")
    assert ours.get(CELL, repair=True) is None
    assert folder.names() == {f"{fingerprint(CELL)}.json"}
    ours.put(CELL, record(k=2))
    assert ours.get(CELL)["scores"]["acc"]["k"] == 2


def test_a_checkpoint_is_whole_or_not_there(store):
    def fails(folder):
        make(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(CELL.suspect, store, fails)
    assert not is_made(CELL.suspect, store)
    assert find(CELL.suspect, store, INPUTS) is None
    assert list(verify(store)) == []
    write(CELL.suspect, store, make)
    assert (find(CELL.suspect, store, INPUTS).folder / "weights").read_bytes() == b"w" * 1000
    assert find(CELL.suspect, store, INPUTS).seconds == 1.0
    card = read_card(place(CELL.suspect, store)[0] / fingerprint(CELL.suspect))
    assert card["spec"] == canonical(CELL.suspect)
    assert card["seconds"] == 1.0


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [("weights", b"w" * 999 + b"x", "not what was written"), ("card.json", b"{", "cut off"), ("card.json", None, "")],
)
def test_a_damaged_checkpoint_is_named_set_aside_and_made_again(store, caplog, file, content, reason):
    write(CELL.suspect, store, make)
    folder = place(CELL.suspect, store)[0] / fingerprint(CELL.suspect)
    if content is None:
        folder.delete(file)
    else:
        folder.write(file, content)
    assert find(CELL.suspect, store, INPUTS) is None  # as for one who looks while it is being written
    assert not (store.folder / "aside").names()
    assert find(CELL.suspect, store, INPUTS, repair=True) is None
    assert reason in caplog.text
    assert len((store.folder / "aside").names()) == 1
    write(CELL.suspect, store, make)
    assert find(CELL.suspect, store, INPUTS)


def test_a_checkpoint_made_from_other_rows_or_another_plm_is_not_used(store, caplog):
    write(CELL.suspect, store, make)
    assert find(CELL.suspect, store, INPUTS | {"plm": "q"}, repair=True) is None
    assert "made from other plm than at hand" in caplog.text


def test_status_knows_done_running_and_failed(store):
    other = Cell(CELL.suspect, test=7)
    store.put(CELL, record())
    store.put_failure(other, {"what": str(other), "error": "e", "traceback": "t", "when": "w", "host": "h"})
    with store.leases.acquire(fingerprint(CELL.suspect)):
        now = status(store, [CELL, other])
        assert (now.total, now.done) == (2, 1)
        assert list(now.running) == [fingerprint(CELL.suspect)]
        assert list(now.failed) == [fingerprint(other)]
        assert status(store, [CELL]).failed == {}
    assert status(store).done == 1
    store.forget_failure(other)
    assert store.failures() == {}


def test_what_can_go_goes_and_the_rest_stays(tmp_path):
    store = Store(tmp_path)
    store.put(CELL, record())
    write(CELL.suspect, store, make)
    other = Suspect("imdb", Named("BadWord"))
    write(other, store, make)
    store.set_aside(store.folder, "store.json", "a test")
    old, new = tmp_path / "suspects" / ".partial-old", tmp_path / "suspects" / ".partial-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "half").write_bytes(b"12345")
    os.utime(old, (time.time() - 7200,) * 2)
    assert {(item.name[:10], item.reason) for item in rubbish(store)} == {
        ("store.json", "set aside"),
        (".partial-o", "unfinished"),
    }
    everything = {item.name: item for item in rubbish(store, [CELL])}
    assert everything[fingerprint(other)].reason == "not needed"
    assert everything[fingerprint(other)].size > 1000
    assert fingerprint(CELL.suspect) not in everything
    assert everything[".partial-old"].size == 5
    for item in everything.values():
        item.folder.delete(item.name)
    assert find(CELL.suspect, store, INPUTS)
    assert not is_made(other, store)
    assert store.get(CELL)
    assert new.exists()


def test_what_somebody_works_on_is_no_rubbish(store):
    write(CELL.suspect, store, make)
    with store.leases.acquire(fingerprint(CELL.suspect)):
        assert list(rubbish(store, [])) == []
    assert [item.name for item in rubbish(store, [])] == [fingerprint(CELL.suspect)]


def test_leases_of_the_dead_are_cleared(store):
    holder = {"host": "h", "machine": machine(), "pid": 2**22 - 1, "started": 0.0}
    (store.folder / "leases").write("x.1", json.dumps(holder).encode())
    with store.leases.acquire("y"):
        assert store.leases.clear() == ["x"]
        assert list(store.leases.holders()) == ["y"]


def test_a_store_that_cannot_be_opened():
    with pytest.raises(PurifyError, match="the store nonsense://x cannot be opened"):
        Store("nonsense://x").check()


class WithoutCreation(MemoryFileSystem):
    protocol = "without-creation"

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create":
            raise NotImplementedError
        super().pipe_file(path, value, **options)


def test_a_file_system_without_exclusive_creation_is_refused():
    register_implementation("without-creation", WithoutCreation, clobber=True)
    store = Store("without-creation://x")
    store.put(CELL, record())
    with pytest.raises(PurifyError, match="cannot be a store: it cannot create a file exclusively"):
        store.leases.acquire("y")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB; mounting one takes the rights to do so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_sentence_and_nothing_is_lost(small_disk):
    store = Store(small_disk)
    store.put(CELL, record())

    def too_much(folder):
        (folder / "weights").write_bytes(b"w" * 200_000)
        return {}

    with pytest.raises(DiskFullError, match=r"no space is left for .*: what was finished is kept; free some space"):
        write(CELL.suspect, store, too_much)
    assert not is_made(CELL.suspect, store)
    (small_disk / "filler").write_bytes(b"f" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(DiskFullError):
        store.put(Cell(CELL.suspect, test=7), record())
    assert store.recorded() == {fingerprint(CELL)}
    assert store.get(CELL)


def test_safetensors_words_for_a_full_disk_are_understood(small_disk):
    import torch
    from safetensors.torch import save_file

    with pytest.raises(Exception, match="No space") as caught:
        save_file({"x": torch.zeros(100_000)}, small_disk / "x.safetensors")
    assert is_full(caught.value)
