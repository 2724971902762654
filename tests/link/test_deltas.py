"""A model comes as differences where the site has the one before, and whole wherever that does not work out."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from fedwon.common.arrays import open_record, write_record
from fedwon.common.codec.coding import decode, encode
from fedwon.common.packing import ZSTD
from fedwon.common.rebuilding import OF_MODEL
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import blob_of, blob_to_wire
from tests.link.link_kit import offer, until
from tests.link.task_kit import named, play
from tests.server.server_kit import shifted

ABOUT = {"fedwon": "x" * 1500}


class Models:
    """A model, the one after it, and the differences, as a server has them."""

    def __init__(self, folder, server, codec: str) -> None:
        self.first, data = offer(folder / "first", "run.r0001.train.line-1")
        base = open_record(folder / "first" / "model-0.safetensors")
        moved = shifted(base, 0.25)
        parts = encode(moved, base, codec, "1").parts
        model = write_record(decode(parts, base), folder / "second.safetensors", ABOUT)
        self.delta = write_record(parts, folder / "delta", {OF_MODEL: json.dumps(ABOUT)}, packing=ZSTD)
        self.second = named(self.first, "run.r0002.train.line-1")
        blob_of(self.second.records).CopyFrom(blob_to_wire(model))
        self.second.deltas.add(file=blob_to_wire(self.delta), base=base.blob.digest)
        self.second.packing = ZSTD
        self.model = model
        server.blobs = {
            sha256(data).hexdigest(): data,
            model.digest: model.path.read_bytes(),
            self.delta.digest: self.delta.path.read_bytes(),
        }


@pytest.fixture
def models(tmp_path, server):
    return Models(tmp_path / "made", server, "int8")


def fetched(server) -> list[str]:
    return list(dict.fromkeys(request.digest for request in server.fetches))


def do(federation, server, *tasks, before=lambda site: None) -> None:
    async def scene(site):
        for number, task in enumerate(tasks, start=1):
            before(site) if number > 1 else None
            site.runner.offer(task)
            await until(lambda number=number: len(server.submitted) == number)
        assert site.told == []
        leftovers = [path.name for path in site.runner.models.folder.iterdir() if path.suffix != ".safetensors"]
        assert leftovers == []

    play(federation, server, scene)


@pytest.mark.parametrize("codec", ["fp32", "int8", "bf16"])
def test_who_has_the_base_fetches_differences_only(federation, server, app, tmp_path, codec):
    models = Models(tmp_path / "made", server, codec)
    do(federation, server, models.first, models.second)
    assert fetched(server)[1:] == [models.delta.digest]
    assert app.calls == [models.first.task_id, models.second.task_id]


def test_who_has_not_got_it_fetches_the_whole(federation, server, app, models):
    do(federation, server, models.second)
    assert fetched(server) == [models.model.digest]


def damaged_base(site) -> None:
    [path] = site.runner.models.folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_base_that_is_damaged_on_the_disk(federation, server, app, models):
    do(federation, server, models.first, models.second, before=damaged_base)
    assert fetched(server)[1:] == [models.delta.digest, models.model.digest]


@pytest.mark.parametrize("lost", ["refused", "storage"])
def test_differences_that_the_server_does_not_hand_out_any_more(federation, server, app, models, lost):
    del server.blobs[models.delta.digest]
    server.lost = lost
    do(federation, server, models.first, models.second)
    assert fetched(server)[1:] == [models.delta.digest, models.model.digest]


@pytest.mark.parametrize(
    "change",
    [
        {"file": {"packing": "rar"}},
        {"file": {"size": 10**9}},
        {"base": "0" * 64},
    ],
)
def test_differences_that_are_of_no_use_are_not_fetched(federation, server, app, models, change):
    [delta] = models.second.deltas
    delta.base = change.get("base", delta.base)
    for name, value in change.get("file", {}).items():
        setattr(delta.file, name, value)
    do(federation, server, models.first, models.second)
    assert fetched(server)[1:] == [models.model.digest]


def test_differences_that_make_other_bytes(federation, server, app, models, tmp_path):
    """As a server of another version may send, or a hostile one."""
    base = open_record(tmp_path / "made" / "first" / "model-0.safetensors")
    parts = encode(shifted(base, 0.5), base, "int8", "1").parts
    other = write_record(parts, tmp_path / "other", {OF_MODEL: json.dumps(ABOUT)}, packing=ZSTD)
    junk = b"no frame"
    for content in (other.path.read_bytes(), junk):
        digest = sha256(content).hexdigest()
        server.blobs[digest] = content
        models.second.deltas.insert(0, pb.Delta(file=pb.Blob(digest=digest, size=len(content), packing=ZSTD)))
        models.second.deltas[0].base = base.blob.digest
    del models.second.deltas[2:]
    do(federation, server, models.first, models.second)
    assert len(fetched(server)) == 4
    assert fetched(server)[-1] == models.model.digest


def test_a_base_whose_digest_is_none_is_told(federation, server, app, models):
    models.second.deltas[0].base = "../../etc"

    async def scene(site):
        site.runner.offer(models.second)
        await until(lambda: site.told)
        assert site.reports()[0][0] == "refused"

    play(federation, server, scene)


def test_the_outcome_lies_packed_in_the_journal_and_is_sent_so(federation, server, app, models, tmp_path):
    do(federation, server, models.second)
    [(header, data)] = server.submitted
    blob = blob_of(header.records)
    assert blob.packing == ZSTD
    assert sha256(data).hexdigest() == blob.digest
    assert blob.size == len(data)


def test_a_packing_that_this_version_does_not_know_is_passed_over(federation, server, app, models):
    models.second.packing = "of a later version"
    do(federation, server, models.second)
    [(header, _)] = server.submitted
    assert not blob_of(header.records).packing
