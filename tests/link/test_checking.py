"""`check` and `evaluate`: what a site can find out before it takes part, and about a model."""

from __future__ import annotations

import asyncio
import shutil
import threading

import numpy as np
import pytest

from fedwon.client.checks import preflight as module
from fedwon.client.checks.preflight import preflight
from fedwon.client.config import ClientConfig, DataConfig
from fedwon.client.evaluating import evaluate_file
from fedwon.client.link.handshake import shake_hands
from fedwon.common.arrays import write_record
from fedwon.common.config import parse
from fedwon.common.errors import (
    ClassMismatch,
    DataMissing,
    DiskFull,
    KeyExposed,
    Refused,
    StorageError,
    Unreachable,
    VersionGap,
)
from fedwon.common.flower import host_app
from fedwon.common.model_file import describe, network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig
from tests.link.link_kit import Federation, listening, refuse


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (30, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.repeat([0, 1, 2], 10))
    return tmp_path / "images.npz"


@pytest.fixture
def running(federation, server):
    """A server in a thread of its own, since `preflight` brings its own event loop."""

    async def no(context):
        await refuse(context)

    ready, stop = threading.Event(), threading.Event()
    found = {}

    async def serve():
        async with listening(federation, server) as address:
            found["address"] = address
            ready.set()
            while not stop.is_set():  # noqa: ASYNC110  # set from another thread
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield found["address"]
    stop.set()
    thread.join()


def check(address, folder, images):
    config = parse(ClientConfig, {"server": address, "data": {"path": str(images)}}, "test")
    findings = preflight(config, folder)
    assert [finding.name for finding in findings] == ["images", "certificate", "disk", "server"]
    return {finding.name: finding for finding in findings}


class TestPreflight:
    def test_a_schedule_is_told_where_there_is_one(self, federation, images):
        folder = federation.site()
        (folder / "busy").touch()
        settings = {"server": "127.0.0.1:1", "data": {"path": str(images)}, "schedule": {"busy_file": "busy"}}
        finding = preflight(parse(ClientConfig, settings, "test"), folder)[-1]
        assert (finding.name, finding.code) == ("schedule", 0)
        assert finding.text.startswith("this site is not available (its line runs)")

    def test_all_is_well(self, federation, running, images):
        found = check(running, federation.site(), images)
        assert [finding.code for finding in found.values()] == [0, 0, 0, 0]
        assert found["images"].text == "30 images in 3 classes: 0 10, 1 10, 2 10"
        assert "line-1, 30 days left" in found["certificate"].text
        assert "GB free" in found["disk"].text
        assert "0.1.0" in found["server"].text
        assert found["server"].as_dict()["ok"]
        assert not list((federation.folder / "line-1").glob(".fedwon*"))

    def test_each_thing_is_looked_at_whatever_the_others_are(self, federation, tmp_path):
        site = federation.site()
        (site / "pki" / "site.key").chmod(0o644)
        found = check("127.0.0.1:1", site, tmp_path / "nowhere")
        codes = {name: finding.code for name, finding in found.items()}
        assert codes == {
            "images": DataMissing.code,
            "certificate": KeyExposed.code,
            "disk": 0,
            "server": Unreachable.code,
        }
        assert all(finding.hint for finding in found.values() if not finding.ok)

    def test_an_expired_certificate(self, federation, running, images):
        found = check(running, federation.site(days=-0.005), images)
        assert found["certificate"].code == Refused.code
        assert "expired" in found["certificate"].text
        assert found["server"].code == Refused.code
        assert "this site's certificate" in found["server"].text

    def test_a_certificate_that_ends_soon(self, federation, running, images):
        assert "renews itself" in check(running, federation.site(days=3), images)["certificate"].text

    def test_another_federations_server(self, running, images, tmp_path):
        found = check(running, Federation(tmp_path / "other").site(), images)
        assert found["server"].code == Refused.code
        assert "does not accept the certificate of" in found["server"].text

    def test_another_version(self, federation, running, images, monkeypatch):
        monkeypatch.setattr(module, "VERSION", "0.4.0")
        found = check(running, federation.site(), images)
        assert found["server"].code == VersionGap.code
        assert "0.1.0" in found["server"].text
        assert "0.4.0" in found["server"].text

    def test_a_full_disk(self, federation, running, images, monkeypatch):
        def full(*_):
            raise DiskFull("No space left on the disk.")

        monkeypatch.setattr(module, "write_atomic", full)
        assert check(running, federation.site(), images)["disk"].code == DiskFull.code


class TestHandshake:
    def test_both_accept(self, federation, running):
        shake_hands(running, federation.site())

    def test_a_name_that_the_certificate_does_not_have(self, federation, running):
        port = running.rpartition(":")[2]
        with pytest.raises(Refused, match="localhost"):
            shake_hands(f"localhost:{port}", federation.site())

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "nowhere.invalid:1"])
    def test_nobody_there(self, federation, address):
        with pytest.raises(Unreachable):
            shake_hands(address, federation.site())

    def test_a_server_that_closes_at_once(self, federation):
        async def go():
            async def close(reader, writer):
                writer.close()

            async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                await asyncio.to_thread(shake_hands, f"127.0.0.1:{port}", federation.site())

        with pytest.raises(Unreachable):
            asyncio.run(go())

    def test_a_certificate_that_is_missing(self, tmp_path):
        with pytest.raises(StorageError):
            shake_hands("127.0.0.1:1", tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    host_app()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    config = RunConfig(model=ModelConfig(width=0.05), images=ImageConfig(size=12))
    task = TaskConfig.of(config, run="run", server_round=4, classes=("0", "1", "2"))
    write_record(record_of(network(task)), path, describe(task))
    return path


class TestEvaluating:
    def test_validation_images_are_kept_apart(self, model, images, tmp_path):
        result = evaluate_file(model, DataConfig(path=str(images)), tmp_path)
        assert (result["run"], result["round"], result["classes"]) == ("run", 4, ["0", "1", "2"])
        assert set(result["parts"]) == {"validation"}
        row = result["parts"]["validation"]
        assert row["examples"] == 6
        assert row["accuracy"] == row["correct"] / 6
        assert row["loss"] > 0

    def test_test_images_where_there_are_some(self, model, images, tmp_path):
        apart = shutil.copy(images, tmp_path / "test.npz")
        result = evaluate_file(model, DataConfig(path=str(images), test=str(apart)), tmp_path)
        assert result["parts"]["test"]["examples"] == 30

    def test_other_classes(self, model, tmp_path):
        np.savez(tmp_path / "o.npz", images=np.zeros((8, 12, 12, 3), np.uint8), labels=np.array(list("aabbaabb")))
        with pytest.raises(ClassMismatch):
            evaluate_file(model, DataConfig(path=str(tmp_path / "o.npz")), tmp_path)
