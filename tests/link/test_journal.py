"""The site's journal and its models: what is whole comes back, what is damaged never does."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.link.journal import KEPT_MODELS, KEPT_OUTCOMES, Journal, ModelCache
from fedwon.common.arrays import open_record, write_record
from fedwon.common.errors import BrokenFile, DiskFull, FedwonError, Refused, StorageError
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_of
from tests.link.link_kit import arrays, outcome

MODEL = sha256(b"model").hexdigest()
OTHER = sha256(b"other").hexdigest()
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", fullmatch=True)
HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\0b",
    "a*",
    "a@b",
    "-x",
    ".hidden",
    "a b",
    "ä",
    "x" * 300,
    "a\n",
]


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


def files(journal) -> list[str]:
    return sorted(path.name for path in journal.folder.iterdir())


@given(tasks=st.dictionaries(NAMES, st.integers(0, 99), min_size=1, max_size=5), data=st.data())
def test_what_was_kept_comes_back_until_it_is_dropped(tasks, data):
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place))
        for task, seed in tasks.items():
            journal.keep(task, MODEL, outcome(seed), float(seed))
        gone = data.draw(st.sets(st.sampled_from(sorted(tasks))))
        journal.drop(gone)
        again = Journal(Path(place))  # after a restart
        assert again.unfinished() == sorted(set(tasks) - gone)
        for task, seed in tasks.items():
            header = again.finished(task, MODEL)
            assert (header is None) == (task in gone)
            assert again.finished(task, OTHER) is None  # it was trained from another model
            if header is not None:
                assert header.seconds == seed
                kept = open_record(again.arrays(task))
                assert kept.blob.digest == blob_of(header.records).digest
                assert np.array_equal(kept["weight"].numpy(), arrays(seed)["weight"].numpy())


@given(
    where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), suffix=st.sampled_from(["header", "safetensors"])
)
def test_a_damaged_outcome_is_dropped(where, flip, suffix):
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place))
        journal.keep("task", MODEL, outcome(), 1.0)
        [path] = journal.folder.glob(f"*.{suffix}")
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= flip
        path.write_bytes(content)
        assert journal.finished("task", MODEL) is None
        assert files(journal) == []


@given(left=st.floats(0, 1, exclude_max=True), suffix=st.sampled_from(["header", "safetensors"]))
def test_an_outcome_that_is_cut_short_is_dropped(left, suffix):
    with tempfile.TemporaryDirectory() as place:
        journal = Journal(Path(place))
        journal.keep("task", MODEL, outcome(), 1.0)
        [path] = journal.folder.glob(f"*.{suffix}")
        os.truncate(path, int(left * path.stat().st_size))
        assert journal.finished("task", MODEL) is None
        assert files(journal) == []


def test_an_outcome_without_arrays(journal):
    content = outcome()
    del content["arrays"]
    journal.keep("task", MODEL, content, 2.0)
    assert journal.finished("task", MODEL).seconds == 2.0
    journal.drop(["task"])
    assert files(journal) == []


def test_done_again_from_another_model_replaces_the_first(journal):
    journal.keep("task", MODEL, outcome(1), 1.0)
    journal.keep("task", OTHER, outcome(2), 2.0)
    assert journal.finished("task", MODEL) is None
    assert journal.finished("task", OTHER).seconds == 2.0


def test_a_header_of_another_task_does_not_count(journal):
    journal.keep("one", MODEL, outcome(), 1.0)
    [path] = journal.folder.glob("*.header")
    path.rename(journal.folder / path.name.replace("one", "two"))
    assert journal.finished("two", MODEL) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_server_does_not_choose_paths(journal, name):
    for call in (
        lambda: journal.keep(name, MODEL, outcome(), 1.0),
        lambda: journal.finished(name, MODEL),
        lambda: journal.drop([name]),
        lambda: journal.arrays(name),
    ):
        with pytest.raises(Refused):
            call()
    assert files(journal) == []


def test_what_a_power_cut_left_is_cleared(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.keep("kept", MODEL, outcome(), 1.0)
    (journal.folder / "half.safetensors").write_bytes(b"no header was written")
    (journal.folder / ".fedwon-0123456789abcdef.tmp").write_bytes(b"nor was this")
    again = Journal(tmp_path / "journal")
    assert [name.split("@")[0].removesuffix(".safetensors") for name in files(again)] == ["kept", "kept"]


def test_the_oldest_outcomes_make_room(journal):
    for number in range(KEPT_OUTCOMES + 3):
        journal.keep(f"run-{number:02}", MODEL, outcome(), 1.0)
        for path in journal.folder.glob(f"run-{number:02}@*"):
            os.utime(path, ns=(number * 10**9, number * 10**9))
    assert journal.unfinished() == [f"run-{number:02}" for number in range(3, KEPT_OUTCOMES + 3)]
    assert len(files(journal)) == 2 * KEPT_OUTCOMES


def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing(journal, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        journal.keep("task", MODEL, outcome(), 1.0)
    monkeypatch.undo()
    assert journal.finished("task", MODEL) is None
    assert files(journal) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "journal").write_text("")
    with pytest.raises(StorageError):
        Journal(tmp_path / "journal")


class TestModels:
    @pytest.fixture
    def cache(self, tmp_path):
        return ModelCache(tmp_path / "models")

    def fetched(self, cache, tmp_path, seed) -> pb.Blob:
        blob = write_record(arrays(seed), tmp_path / "made.safetensors")
        wanted = pb.Blob(digest=blob.digest, size=blob.size)
        cache.partial(wanted).write_bytes(blob.path.read_bytes())
        cache.accept(wanted)
        return wanted

    def test_the_newest_are_kept(self, cache, tmp_path):
        wanted = [self.fetched(cache, tmp_path, seed) for seed in range(5)]
        here = [cache.get(blob) is not None for blob in wanted]
        assert here == [False] * (5 - KEPT_MODELS) + [True] * KEPT_MODELS
        assert len(list(cache.folder.iterdir())) == KEPT_MODELS

    def test_partial_files_of_others_are_pruned(self, cache, tmp_path):
        cache.partial(pb.Blob(digest=OTHER)).write_bytes(b"left behind")
        self.fetched(cache, tmp_path, 1)
        assert [path.suffix for path in cache.folder.iterdir()] == [".safetensors"]

    def test_what_arrived_damaged_is_deleted(self, cache):
        wanted = pb.Blob(digest=MODEL, size=5)
        cache.partial(wanted).write_bytes(b"wrong")
        with pytest.raises(BrokenFile):
            cache.accept(wanted)
        assert list(cache.folder.iterdir()) == []

    def test_the_right_digest_of_something_else_than_a_model_is_deleted(self, cache):
        wanted = pb.Blob(digest=sha256(b"no model").hexdigest(), size=8)
        cache.partial(wanted).write_bytes(b"no model")
        with pytest.raises(FedwonError):
            cache.accept(wanted)
        assert list(cache.folder.iterdir()) == []

    def test_a_model_that_was_damaged_on_the_disk_is_not_given_out(self, cache, tmp_path):
        wanted = self.fetched(cache, tmp_path, 1)
        [path] = cache.folder.iterdir()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert cache.get(wanted) is None

    @pytest.mark.parametrize(
        "digest", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "g" * 64]
    )
    def test_a_digest_that_is_none(self, cache, digest):
        for call in (cache.partial, cache.get, cache.accept):
            with pytest.raises(Refused):
                call(pb.Blob(digest=digest, size=1))


def test_an_outcome_just_kept_stays_when_the_clock_went_back(tmp_path):
    journal = Journal(tmp_path)
    for number in range(KEPT_OUTCOMES):
        journal.keep(f"later-{number}", MODEL, outcome(number), 1.0)
        for path in tmp_path.glob(f"later-{number}*"):
            os.utime(path, (4e9, 4e9))
    journal.keep("now", MODEL, outcome(), 1.0)
    assert journal.finished("now", MODEL) is not None
    assert len(journal.unfinished()) == KEPT_OUTCOMES
