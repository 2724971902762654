"""A backup of a server's folder: whole whatever the server does meanwhile, private, and not believed when changed."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import threading

import pytest

from fedwon.common import errors
from fedwon.common.arrays import open_record
from fedwon.common.round_settings import RetentionConfig
from fedwon.server.backups import backup, restore
from fedwon.server.config import ServerConfig
from fedwon.server.identity import sites
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home
from fedwon.server.store import AuditRow, Token
from tests.server.server_kit import rows, same, shifted, small_run


@pytest.fixture
def home(tmp_path):
    """A server's folder with a run of one committed round and a token that was used."""
    made = Home.create(tmp_path / "server", ServerConfig(names=("localhost",), run=small_run(rounds=500)))
    run = Run.create(made.store, made.folder, made.config.run, made.config.run.classes)
    run.commit(1, shifted(run.last()[1], 1.0), seconds=1.0, sites=("a",))
    (run.spool / "update.safetensors").write_bytes(b"on the way")
    (run.quarantine / "bad.safetensors").write_bytes(b"refused")
    (run.folder / "half.tmp").write_bytes(b"half")
    sites.redeem_token(made.store, sites.make_token(made.store, "used", 1.0))
    yield made
    made.store.close()


@pytest.fixture
def made(home, tmp_path):
    return backup.back_up(home.folder, tmp_path / "backup.tar")


def files(folder):
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "fedwon.db" not in name}


def leftovers(tmp_path):
    return [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def rewrite(path, change):
    """Write a tar file anew; `change(entry, content)` returns its entries, each with its content."""
    with tarfile.open(path) as old:
        entries = [(entry, old.extractfile(entry).read()) for entry in old]
    with tarfile.open(path, "w") as new:
        for entry, content in entries:
            for other, data in change(entry, content):
                other.size = len(data) if other.isreg() else 0
                new.addfile(other, io.BytesIO(data))


def only_run(home):
    return Run.open(home.store, home.folder)


def test_what_comes_back_is_what_was_there(home, made, tmp_path):
    assert restore.restore(made.path, tmp_path / "new") == 1
    before, after = files(home.folder), files(tmp_path / "new")
    left_out = {name for name in before if "/spool/" in name or name.endswith(".tmp")}
    assert len(left_out) == 2
    assert after == {name: content for name, content in before.items() if name not in left_out}
    assert any("quarantine" in name for name in after)
    again = Home.open(tmp_path / "new")
    number, model = Run.open(again.store, again.folder).last()
    assert (number, model.blob.digest) == (1, only_run(home).last()[1].blob.digest)
    assert [row.action for row in rows(again.store, AuditRow)][-1] == "backup restored"
    again.store.close()
    assert leftovers(tmp_path) == []


def test_keys_stay_private(home, made, tmp_path):
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    restore.restore(made.path, tmp_path / "new")
    for name in ("pki", ""):
        assert not stat.S_IMODE((tmp_path / "new" / name).stat().st_mode) & 0o077
    keys = sorted((tmp_path / "new" / "pki").glob("*.key"))
    assert [path.name for path in keys] == sorted(path.name for path in (home.folder / "pki").glob("*.key"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_every_round_that_the_copy_knows_is_in_it_while_the_server_goes_on(home, tmp_path):
    run = only_run(home)
    run.config = run.config.model_copy(update={"retention": RetentionConfig(rounds=None)})  # hundreds a second here
    ended = threading.Event()

    def go_on() -> None:
        record = open_record(run.model_path(1))
        for number in range(2, 500):
            if ended.is_set():
                return
            run.commit(number, record, seconds=1.0, sites=("a",))

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        made = [backup.back_up(home.folder, tmp_path / f"backup-{number}.tar") for number in range(5)]
    finally:
        ended.set()
        writer.join()
    found = []
    for number, one in enumerate(made):
        assert one.damaged == ()
        found.append(restore.restore(one.path, tmp_path / f"new-{number}"))
        again = Home.open(tmp_path / f"new-{number}")
        assert Run.open(again.store, again.folder).last()[0] == found[-1]
        again.store.close()
    assert found == sorted(found)
    assert found[0] < found[-1]  # the server did go on


def test_models_that_the_server_has_let_go_are_not_missed(home, tmp_path):
    run = only_run(home)
    for number in range(2, 10):
        run.commit(number, run.last()[1], seconds=1.0, sites=("a",))
    assert not run.model_path(1).exists()
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == ()
    assert restore.restore(made.path, tmp_path / "new") == 9


def test_the_newest_model_is_missed(home, tmp_path):
    run = only_run(home)
    newest = run.last()[1].blob.path
    newest.unlink()
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == (f"runs/{run.id}/{newest.name}",)


@pytest.mark.parametrize("damage", ["none", "changed", "gone"])
def test_the_velocity_of_the_servers_momentum_comes_back_too(home, tmp_path, damage):
    run, model = only_run(home), only_run(home).last()[1]
    for number in (2, 3):
        run.commit(number, model, seconds=1.0, sites=("a",), velocity=shifted(model, number))
    path = run.checkpoints.velocity_path(3)
    if damage == "changed":
        path.write_bytes(b"none")
    elif damage == "gone":
        path.unlink()
        run.checkpoints.velocity_path(2).unlink()  # of an older round, which is let go in time
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == (() if damage == "none" else (f"runs/{run.id}/{path.name}",))
    restore.restore(made.path, tmp_path / "new")
    if damage == "none":
        again = Home.open(tmp_path / "new")
        assert same(Run.open(again.store, again.folder).checkpoints.velocity(3), shifted(model, 3))
        again.store.close()


def test_a_folder_that_no_server_of_this_version_has_opened_yet(home, tmp_path):
    home.store.close()
    with sqlite3.connect(home.store.path) as connection:
        connection.execute("ALTER TABLE rounds DROP COLUMN velocity")
        connection.execute("UPDATE alembic_version SET version_num = '0008'")
    connection.close()
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == ()
    assert restore.restore(made.path, tmp_path / "new") == 1


def test_a_round_that_is_committed_behind_the_copys_back_does_not_tear_it(home, tmp_path, monkeypatch):
    run = only_run(home)
    listing = backup._files

    def then_another_round(folder):
        yield from list(listing(folder))
        run.commit(run.last()[0] + 1, open_record(run.model_path(1)), seconds=1.0, sites=("a",))

    monkeypatch.setattr(backup, "_files", then_another_round)
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == ()
    assert restore.restore(made.path, tmp_path / "new") == 1
    assert run.last()[0] == 2


def test_a_model_that_was_damaged_before_is_told(home, tmp_path):
    run = only_run(home)
    run.model_path(0).write_bytes(b"no model")
    run.model_path(1).write_bytes(b"none either")
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert made.damaged == tuple(f"runs/{run.id}/round-000{number}.safetensors" for number in (0, 1))


def test_open_tokens_are_void_after_a_restore(home, tmp_path):
    token = sites.make_token(home.store, "line-1", 24.0)
    made = backup.back_up(home.folder, tmp_path / "backup.tar")
    assert sites.redeem_token(home.store, token) == "line-1"
    restore.restore(made.path, tmp_path / "new")
    again = Home.open(tmp_path / "new")
    assert [row.site for row in rows(again.store, Token)] == ["used"]
    with pytest.raises(errors.TokenUsed):
        sites.redeem_token(again.store, token)
    again.store.close()


class TestNothingIsOverwritten:
    def test_by_a_backup(self, home, made):
        before = made.path.read_bytes()
        with pytest.raises(errors.FolderTaken, match=r"backup\.tar"):
            backup.back_up(home.folder, made.path)
        assert made.path.read_bytes() == before

    def test_by_a_restore(self, home, made, tmp_path):
        before = files(home.folder)
        with pytest.raises(errors.FolderTaken, match="not empty"):
            restore.restore(made.path, home.folder)
        assert files(home.folder) == before
        (tmp_path / "empty").mkdir()
        restore.restore(made.path, tmp_path / "empty")

    def test_a_folder_that_is_no_servers(self, tmp_path):
        with pytest.raises(errors.ConfigMissing):
            backup.back_up(tmp_path, tmp_path / "backup.tar")
        assert list(tmp_path.iterdir()) == []

    def test_by_a_disk_that_is_full(self, home, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(errors.DiskFull, match=r"writing .*backup\.tar"):
            backup.back_up(home.folder, tmp_path / "backup.tar")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["server"]


def model_name(entry):
    return entry.name.endswith("round-0001.safetensors")


def flipped(entry, content):
    yield entry, content[:-1] + bytes([content[-1] ^ 1]) if model_name(entry) else content


def left_out(entry, content):
    if not model_name(entry):
        yield entry, content


def added(entry, content):
    yield entry, content
    if model_name(entry):
        yield tarfile.TarInfo("pki/another.key"), b"key"


def twice(entry, content):
    yield entry, content
    if model_name(entry):
        yield entry, content


def without_manifest(entry, content):
    if entry.name != backup.MANIFEST:
        yield entry, content


def another_form(entry, content):
    if entry.name == backup.MANIFEST:
        content = json.dumps({**json.loads(content), "format": 99, "version": "9.9.9"}).encode()
    yield entry, content


def named(name, kind=tarfile.REGTYPE, link=""):
    def change(entry, content):
        yield entry, content
        if model_name(entry):
            other = tarfile.TarInfo(name)
            other.type, other.linkname = kind, link
            yield other, b"x"

    return change


class TestABackupIsNotBelieved:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (flipped, r"round-0001\.safetensors is not the file"),
            (left_out, r"round-0001\.safetensors is not the file"),
            (added, r"another\.key is not the file"),
            (twice, "File exists"),
            (without_manifest, "no readable backup.json"),
            (another_form, r"made by fedwon 9\.9\.9"),
            (named("../outside"), "leads out of the folder"),
            (named("runs/../../outside"), "leads out of the folder"),
            (named("/tmp/outside"), "leads out of the folder"),
            (named("runs//x"), "leads out of the folder"),
            (named("runs/link", tarfile.SYMTYPE, "/etc"), "no plain file"),
            (named("runs/link", tarfile.LNKTYPE, "server.yaml"), "no plain file"),
            (named("runs/device", tarfile.CHRTYPE), "no plain file"),
        ],
    )  # fmt: skip
    def test_when_it_was_changed(self, made, tmp_path, change, said):
        rewrite(made.path, change)
        with pytest.raises(errors.StorageError, match=said):
            restore.restore(made.path, tmp_path / "deep" / "new")
        assert not (tmp_path / "deep" / "new").exists()
        assert list((tmp_path / "deep").iterdir()) == []
        assert not (tmp_path / "outside").exists()

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_when_it_is_cut_short(self, made, tmp_path, share):
        whole = made.path.read_bytes()
        made.path.write_bytes(whole[: int(share * len(whole.rstrip(b"\0")))])
        with pytest.raises(errors.StorageError):
            restore.restore(made.path, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert leftovers(tmp_path) == []

    def test_when_its_database_is_of_a_later_version(self, home, tmp_path):
        shutil.copytree(home.folder, tmp_path / "later")
        with sqlite3.connect(tmp_path / "later" / "fedwon.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        made = backup.back_up(tmp_path / "later", tmp_path / "backup.tar")
        with pytest.raises(errors.StorageError, match="another version of fedwon"):
            restore.restore(made.path, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert leftovers(tmp_path) == []
