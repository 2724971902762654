"""What sites are offered in a codec and may fetch, and packed updates that come: real connections."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flwr.app import ArrayRecord

from fedwon.common.arrays import Blob, open_record, write_record
from fedwon.common.codec import TRAFFIC, codec_of, named
from fedwon.common.codec.coding import decode, encode
from fedwon.common.errors import Refused
from fedwon.common.packing import ZSTD, packed
from fedwon.common.wire.records import blob_of, settings_of
from fedwon.server.rounds.site_grid import Delta
from tests.server.server_kit import outcome, record, refusal, same, shifted, stored, tasks, wired

WEIGHTS = record(w=[[0.5] * 40] * 3)


def asking(running, model, *names, codec="int8"):
    messages = tasks(running, *names, model=model)
    for message in messages:
        message.content[TRAFFIC] = named(codec)
    return messages


async def replies(running, messages):
    return await running.done(lambda: list(running.grid.send_and_receive(messages, timeout=20)))


def offered(offer) -> tuple:
    return settings_of(offer.records).get("codec"), offer.packing


@wired
async def test_each_site_is_asked_for_what_it_can(running):
    model = stored(running.home.folder / "model.safetensors", WEIGHTS)
    new = await running.site("a").connect(codecs=["int8", "of-later"])
    old = await running.site("b").connect()
    await running.done(running.grid.push_messages, asking(running, model, "a", "b"))
    assert offered(await new.next("offer")) == ("int8", ZSTD)
    assert offered(await old.next("offer")) == (None, "")
    assert running.hub.codecs == {"a": {"int8"}, "b": set()}


@wired
async def test_a_task_stays_the_same_while_its_site_is_away_and_later_models_come(running):
    """Otherwise what the site has done of it would be refused."""
    model, later = (stored(running.home.folder / f"{n}.safetensors", shifted(WEIGHTS, n)) for n in (0, 1))
    running.grid.shorten(model.blob.digest, Delta(later.blob, base="b" * 64))
    new, old = await running.site("new").connect(codecs=["int8"]), await running.site("old").connect()
    messages = asking(running, model, "new", "old")
    await running.done(running.grid.push_messages, messages)
    before = dict(running.hub.tasks)
    for session in (new, old):
        await session.next("offer")
        await session.leave()
    await running.sites_are()
    running.grid.shorten(later.blob.digest, Delta(model.blob, base="c" * 64))
    await running.done(running.grid.push_messages, messages)
    assert len(before) == 2
    assert all(running.hub.tasks[name] is task for name, task in before.items())


@wired
async def test_a_packed_update_comes_as_what_it_is(running):
    model = stored(running.home.folder / "model.safetensors", WEIGHTS)
    session = await running.site("a").connect(codecs=["int8"])
    waiting = asyncio.create_task(replies(running, asking(running, model, "a")))
    offer = await session.next("offer")
    parts = encode(shifted(WEIGHTS, 0.25), WEIGHTS, "int8", "1").parts
    blob = write_record(parts, running.home.folder / "update", packing=ZSTD)
    await session.site.submit(header(offer.task_id, blob, ZSTD), blob.path.read_bytes(), piece=100)
    [reply] = await waiting
    assert same(reply.content["arrays"], parts)
    assert decode(reply.content["arrays"], WEIGHTS)["w"].shape == (3, 40)
    assert running.grid.traffic(offer.task_id).bytes_up == blob.size


def header(task_id, blob, packing):
    made = outcome(task_id, blob)
    blob_of(made.records).packing = packing
    return made


@wired
async def test_hostile_packing_becomes_an_error_and_no_files_of_gigabytes(running):
    model = stored(running.home.folder / "model.safetensors", WEIGHTS)
    session = await running.site("a").connect(codecs=["int8"])
    waiting = asyncio.create_task(replies(running, asking(running, model, "a")))
    offer = await session.next("offer")
    path = running.home.folder / "bomb"
    path.write_bytes(b"".join(packed([bytes(2**20)] * 64)))
    blob = replace(write_record(WEIGHTS, running.home.folder / "x"), path=path, size=path.stat().st_size)
    blob = replace(blob, digest=digest(path))
    refused = await refusal(session.site.submit(header(offer.task_id, blob, "rar"), path.read_bytes()))
    assert isinstance(refused, Refused)
    assert "rar" in refused.message
    await session.site.submit(header(offer.task_id, blob, ZSTD), path.read_bytes())
    [reply] = await waiting
    assert "more than" in reply.error.reason
    assert sum(path.stat().st_size for path in running.hub.spool.iterdir()) < 2**20


def digest(path) -> str:
    from fedwon.common.files import sha256_file

    return sha256_file(path)


@wired
async def test_a_model_is_offered_and_handed_out_as_differences(running):
    folder = running.home.folder
    model = stored(folder / "model.safetensors", WEIGHTS)
    path = folder / "model.delta"
    path.write_bytes(b"differences")
    running.grid.shorten(model.blob.digest, Delta(Blob(path, digest(path), 11, ZSTD), base="b" * 64))
    session, other = await running.site("a").connect(), await running.site("b").connect()
    await running.done(running.grid.push_messages, tasks(running, "a", model=model))
    offer = await session.next("offer")
    [delta] = offer.deltas
    assert (delta.base, delta.file.size, delta.file.packing) == ("b" * 64, 11, ZSTD)
    assert await session.site.fetch(delta.file.digest) == b"differences"
    assert running.grid.traffic(offer.task_id).bytes_down == 11
    assert len(await session.site.fetch(model.blob.digest)) == model.blob.size  # whoever has not got the base
    assert isinstance(await refusal(other.site.fetch(delta.file.digest)), Refused)


@wired
async def test_another_model_is_offered_whole(running):
    folder = running.home.folder
    model, later = (stored(folder / f"{n}.safetensors", shifted(WEIGHTS, n)) for n in (0, 1))
    running.grid.shorten(later.blob.digest, Delta(model.blob, base="b" * 64))
    session = await running.site("a").connect()
    await running.done(running.grid.push_messages, tasks(running, "a", model=model))
    assert list((await session.next("offer")).deltas) == []


@wired
async def test_a_site_may_answer_plainly(running):
    model = stored(running.home.folder / "model.safetensors", WEIGHTS)
    session = await running.site("a").connect(codecs=["int8"])
    waiting = asyncio.create_task(replies(running, asking(running, model, "a")))
    offer = await session.next("offer")
    blob = write_record(shifted(WEIGHTS, 1), running.home.folder / "update")
    await session.site.submit(outcome(offer.task_id, blob), blob.path.read_bytes())
    [reply] = await waiting
    assert codec_of(reply.content) == "plain"
    assert same(reply.content["arrays"], shifted(WEIGHTS, 1))
    assert isinstance(reply.content["arrays"], ArrayRecord)
    assert open_record(blob.path).blob.digest == reply.content["arrays"].blob.digest
