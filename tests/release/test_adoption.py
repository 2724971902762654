"""How a release comes to a line: over the real wire, into a real folder, through the gates."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import grpc
import pytest

from fedwon.client.images.opening import open_site
from fedwon.client.releases import fetching as release_fetching
from fedwon.client.releases.adoption import INCOMING, Adoption
from fedwon.client.releases.shelf import Shelf
from fedwon.client.training.local import evaluate
from fedwon.common.errors import ConfigError, Refused
from fedwon.common.gates import Gates
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.release import MANIFEST, ONNX
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc
from fedwon.server.auditing import trail
from fedwon.server.releases.making import make_release
from fedwon.server.releases.orders import Said, by_site, give, named_sites, note, open_orders
from fedwon.server.releases.wish import Wish
from tests.release.line_kit import answered, linked, make_site, standing, until, with_server
from tests.server.release_kit import make_home, make_run


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """A home with two releases of one run."""
    home = make_home(tmp_path_factory.mktemp("adoption") / "server", heartbeat=0.4)
    run = make_run(home)
    names = [make_release(home, Wish(round=number, name=f"r{number}")).manifest.name for number in (1, 2)]
    assert names == ["r1", "r2"]
    yield SimpleNamespace(home=home, run=run)
    home.store.close()


@pytest.fixture
def home(releases):
    """The home, with no orders and no sites of an earlier test."""
    from fedwon.server.releases.orders import OrderRow

    with releases.home.store.session() as session:
        session.query(OrderRow).delete()
    return releases.home


def test_a_line_takes_a_release_measures_it_and_goes_back(releases, home, tmp_path):
    config = make_site(home, tmp_path)
    shelf = Shelf(tmp_path)

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "promote", ["left"], "r1", Gates(accuracy=0.0, defects=("bad",)))
            first = await answered(home)
            assert (first["state"], first["in_use"], first["reason"]) == ("in use", "r1", "")
            assert shelf.standing.in_use == "r1"
            give(home.store, "promote", ["left"], "r2")
            assert (await answered(home))["in_use"] == "r2"
            give(home.store, "rollback", ["left"])
            back = await answered(home)
            assert (back["state"], back["in_use"], shelf.standing.in_use) == ("in use", "r1", "r1")
            task, record = read_model(releases.run.model_path(1))
            wanted = evaluate(trained_network(task, record), open_site(config.data, task, tmp_path).validation)
            figures = first["figures"]
            assert (figures["images"], figures["correct"]) == (wanted.examples, wanted.correct)
            assert figures["defective"] == wanted.class_examples[0]
            assert figures["escaped"] == wanted.class_examples[0] - wanted.class_correct[0]
            assert figures["overkilled"] == wanted.class_examples[1] - wanted.class_correct[1]

    with_server(home, script)
    said = [line["action"] for line in trail(home.store, site="left") if line["action"].startswith("release")]
    assert said[-6:] == [
        "release promoted",
        "release in use",
        "release promoted",
        "release in use",
        "release rolled back",
        "release in use",
    ]


@pytest.mark.parametrize("own", [True, False])
def test_gates_of_the_site_and_of_the_promotion_keep_a_release_out(home, tmp_path, own):
    impossible = {"accuracy": 1.0}
    config = make_site(home, tmp_path, **({"gates": impossible} if own else {}))

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "promote", ["left"], "r1", Gates() if own else Gates(**impossible))
            row = await answered(home)
            assert row["state"] == "refused"
            assert "below 100.0%" in row["reason"]
            assert row["figures"]["images"] == 8
            assert row["in_use"] is None

    with_server(home, script)
    assert Shelf(tmp_path).standing.in_use is None
    assert not Shelf(tmp_path).place("r1").exists()


def test_an_answer_is_said_again_and_nothing_done_twice(home, tmp_path):
    config, shelf = make_site(home, tmp_path), Shelf(tmp_path)
    order = give(home.store, "promote", ["left"], "r1")[0]  # before any server runs

    async def first(hub):
        async with linked(config, tmp_path):
            await answered(home)

    with_server(home, first)
    from fedwon.server.releases.orders import OrderRow

    with home.store.session() as session:  # as if the answer had been lost with the server
        session.query(OrderRow).filter_by(id=order).one().state = "open"
    made = shelf.place("r1").stat().st_mtime_ns
    with_server(home, first)
    assert standing(home)["state"] == "in use"
    assert shelf.place("r1").stat().st_mtime_ns == made
    assert shelf.standing.before is None


def test_there_is_nothing_to_go_back_to(home, tmp_path):
    config = make_site(home, tmp_path)

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "rollback", ["left"])
            row = await answered(home)
            assert (row["state"], row["in_use"]) == ("failed", None)
            assert "no release before" in row["reason"]

    with_server(home, script)


def test_a_release_that_is_not_the_federations_is_refused_before_its_files_are_fetched(home, tmp_path, monkeypatch):
    config, other = make_site(home, tmp_path), make_home(tmp_path / "other")
    monkeypatch.setattr(Adoption, "_authorities", lambda self: other.authority.pem)

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "promote", ["left"], "r1")
            row = await answered(home)
            assert row["state"] == "refused"
            assert "another federation" in row["reason"]

    with_server(home, script)
    assert not list((Shelf(tmp_path).folder / INCOMING).rglob("*.onnx*"))
    other.store.close()


def test_what_was_changed_on_the_server_goes_to_nobody(home, tmp_path):
    config, place = make_site(home, tmp_path), home.folder / "releases"
    shutil.copytree(place / "r1", tmp_path / "kept")
    content = bytearray((place / "r1" / ONNX).read_bytes())
    content[-1] ^= 1
    (place / "r1" / ONNX).write_bytes(content)

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "promote", ["left"], "r1")
            row = await answered(home)
            assert row["state"] == "failed"
            assert "digest differs" in row["reason"]

    try:
        with_server(home, script)
    finally:
        shutil.copy(tmp_path / "kept" / ONNX, place / "r1" / ONNX)


def test_a_transfer_goes_on_where_it_was_and_damage_is_fetched_again(home, tmp_path, monkeypatch):
    config = make_site(home, tmp_path)
    place = home.folder / "releases" / "r1"
    manifest, model = (place / MANIFEST).read_bytes(), (place / ONNX).read_bytes()
    from hashlib import sha256

    incoming = Shelf(tmp_path).folder / INCOMING / sha256(manifest).hexdigest()
    incoming.mkdir(parents=True)
    (incoming / f"{ONNX}.part").write_bytes(model[:1000])
    (incoming / f"{MANIFEST}.part").write_bytes(b"x" * 10)
    asked = []
    fetch = release_fetching.pb.FetchRequest
    monkeypatch.setattr(
        release_fetching,
        "pb",
        SimpleNamespace(FetchRequest=lambda **k: asked.append(k["offset"]) or fetch(**k), Chunk=pb.Chunk),
    )

    async def script(hub):
        async with linked(config, tmp_path):
            give(home.store, "promote", ["left"], "r1")
            assert (await answered(home))["state"] == "in use"

    with_server(home, script)
    assert 1000 in asked
    assert asked[:2] == [10, 0]
    assert not (Shelf(tmp_path).folder / INCOMING).exists()


def test_only_the_site_that_is_to_have_a_release_gets_it(home, tmp_path):
    make_site(home, tmp_path / "left")
    make_site(home, tmp_path / "right", "right")
    digest = home.folder.joinpath("releases", "r1", ONNX).read_bytes()
    from hashlib import sha256

    async def script(hub):
        give(home.store, "promote", ["left"], "r1")
        await until(lambda: open_orders(home.store))
        pki = tmp_path / "right" / "pki"
        credentials = grpc.ssl_channel_credentials(
            *(pki.joinpath(n).read_bytes() for n in ("ca.pem", "site.key", "site.pem"))
        )
        async with grpc.aio.secure_channel(home.config.listen, credentials) as channel:
            call = rpc.FederationStub(channel).Fetch(pb.FetchRequest(digest=sha256(digest).hexdigest()))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            assert from_rpc(caught.value, "server").slug in {"refused", "link"}

    with_server(home, script)


def test_a_site_without_a_line_or_of_an_earlier_version_is_told_nothing(home, tmp_path):
    make_site(home, tmp_path)

    async def script(hub):
        import asyncio

        from fedwon.client.config import LinkConfig
        from fedwon.client.link.site_link import Link

        link = Link(LinkConfig(server=home.config.listen), tmp_path, dict, until_finished=False, patience=5.0)
        running = asyncio.create_task(link.run())
        await until(lambda: "left" in hub.sessions)
        give(home.store, "promote", ["left"], "r1")
        await asyncio.sleep(0.6)
        assert hub.sessions["left"].outgoing.empty()
        assert hub.sessions["left"].order == ""
        assert standing(home)["state"] == "open"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with_server(home, script)


def test_orders(home):
    store = home.store
    from fedwon.server.identity import sites

    for name in ("a", "b"):
        sites.enrolled(store, name, sites.now())
    first = give(store, "promote", ["a", "b"], "r1", Gates(accuracy=0.5))
    second = give(store, "promote", ["a"], "r2")[0]
    assert {site: row.release for site, row in open_orders(store).items()} == {"a": "r2", "b": "r1"}
    assert not note(store, "a", Said(first[0], "in use", "r1")), "it was withdrawn"
    assert not note(store, "b", Said(second, "in use", "r2")), "it is another site's"
    assert not note(store, "a", Said(second, "dancing", "r2"))
    assert note(store, "a", Said(second, "in use", "r2"))
    assert not note(store, "a", Said(second, "failed")), "it was answered"
    give(store, "hold", ["a", "b"])
    assert open_orders(store) == {}
    assert {row["site"]: (row["in_use"], row["state"]) for row in by_site(store)} == {
        "a": ("r2", "held"),
        "b": (None, "held"),
    }
    assert not {"a", "b"} & set(named_sites(store, [], everywhere=True, promoting=True))
    assert {"a", "b"} <= set(named_sites(store, [], everywhere=True))
    give(store, "promote", named_sites(store, ["a"], everywhere=False), "r1")
    assert "a" in named_sites(store, [], everywhere=True, promoting=True)
    with pytest.raises(Refused):
        named_sites(store, ["nobody"], everywhere=False)
    for wrong in ({"names": [], "everywhere": False}, {"names": ["a"], "everywhere": True}):
        with pytest.raises(ConfigError):
            named_sites(store, **wrong)


def test_what_a_site_says_cannot_write_on_the_operators_screen(home):
    order = give(home.store, "promote", ["left"], "r1")[0]
    assert note(home.store, "left", Said(order, "failed", "r9\x1b[2J", "\x1b[31m" + "x" * 5000))
    row = standing(home)
    assert row["in_use"] is None
    assert row["reason"].isprintable()
    assert len(row["reason"]) <= 500
