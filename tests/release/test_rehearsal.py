"""`fedwon-client check`, the part that tries: against a real server, and without one."""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from fedwon.client.checks import rehearsal
from fedwon.client.checks.rehearsal import rehearse
from fedwon.client.cli import app
from fedwon.client.training import private as private_training
from fedwon.common.errors import ClassMismatch, EmptyClass, OutOfMemory, Refused
from fedwon.common.run_config import RunConfig
from tests.release.line_kit import make_site, with_server
from tests.server.release_kit import make_home, make_run
from tests.server.server_kit import small_run


@pytest.fixture
def home(tmp_path):
    home = make_home(tmp_path / "server", run=small_run(classes=None))
    yield home
    home.store.close()


def tried(home, config, folder):
    """What a rehearsal finds while the server runs."""
    found = {}

    async def script(hub):
        found["findings"] = await asyncio.to_thread(rehearse, config, folder)

    with_server(home, script)
    return {finding.name: finding for finding in found["findings"]}


def test_all_is_well_and_classes_are_not_known_before_the_first_run(home, tmp_path):
    found = tried(home, make_site(home, tmp_path / "site", batch_size=4), tmp_path / "site")
    assert list(found) == ["clock", "content", "classes", "training"]
    assert all(finding.ok and not finding.hint for finding in found.values()), found
    assert abs(found["clock"].figures["ahead_seconds"]) < 60
    assert found["content"].text == "40 of 40 images decoded, most are 10 x 12"
    assert "not named yet" in found["classes"].text
    figures = found["training"].figures
    assert (figures["batch_size"], figures["steps"]) == (4, 8)  # 32 of 40 images are trained on
    assert figures["minutes_per_round"] > figures["steps"] * figures["seconds_per_step"] / 60
    assert figures["peak_bytes"] > 50e6
    json.dumps([finding.as_dict() for finding in found.values()])


def test_private_training_is_rehearsed_privately_and_costs_nothing(tmp_path, monkeypatch):
    asked = RunConfig.model_validate(
        {**small_run(classes=None).model_dump(mode="json"), "privacy": {"examples": {"noise": 1.0}}}
    )
    home = make_home(tmp_path / "server", run=asked)
    taken = []
    plain = private_training.train_privately
    monkeypatch.setattr(private_training, "train_privately", lambda *a, **k: taken.append(a[3]) or plain(*a, **k))
    found = tried(home, make_site(home, tmp_path / "site", batch_size=4), tmp_path / "site")
    home.store.close()
    assert found["training"].ok
    assert [plan.noise for plan in taken] == [1.0, 1.0]
    assert not (tmp_path / "site" / "privacy.json").exists()


def test_classes_are_compared_with_the_newest_runs(home, tmp_path):
    make_run(home, rounds=0, classes=("bad", "good", "odd"), config=small_run(classes=("bad", "good", "odd")))
    config = make_site(home, tmp_path / "site")
    found = tried(home, config, tmp_path / "site")["classes"]
    assert (found.ok, found.text) == (True, "the federation has 3; no image to train on of odd")
    images = np.zeros((4, 9, 9, 3), np.uint8)
    np.savez(tmp_path / "site" / "images.npz", images=images, labels=["Bad", "good", "bad", "good"])
    found = tried(home, config, tmp_path / "site")
    assert found["classes"].code == ClassMismatch.code
    assert "did you mean `bad`?" in found["classes"].text
    assert "1 in two classes" not in found["content"].text
    assert "in two classes" in found["content"].text
    assert found["content"].hint


def test_a_clock_that_is_wrong(home, tmp_path, monkeypatch):
    config, now = make_site(home, tmp_path / "site"), time.time
    for seconds, ok in ((900, True), (-3 * 86400, False)):
        monkeypatch.setattr(rehearsal, "time", type("Clock", (), {"time": staticmethod(lambda s=seconds: now() + s)}))
        found = tried(home, config, tmp_path / "site")["clock"]
        assert (found.ok, found.code) == (ok, 0 if ok else Refused.code)
        assert found.hint
        assert ("ahead of" if ok else "behind") in found.text


def test_without_a_server_what_can_be_tried_is_tried(home, tmp_path):
    config = make_site(home, tmp_path / "site")
    found = {finding.name: finding for finding in rehearse(config, tmp_path / "site")}
    assert "could not be asked" in found["clock"].text
    assert "could not be asked" in found["classes"].text
    assert "default run's" in found["training"].hint
    done = CliRunner().invoke(app, ["check", "--dir", str(tmp_path / "site")])
    marks = [line[:6] for line in done.stdout.splitlines() if line[:6].strip()]
    assert marks == ["ok    ", "ok    ", "ok    ", "FAILED", "note  ", "ok    ", "note  ", "note  "]
    quick = CliRunner().invoke(app, ["check", "--quick", "--json", "--dir", str(tmp_path / "site")])
    assert [finding["name"] for finding in json.loads(quick.stdout)["findings"]][-1] == "server"


def test_broken_images_and_too_little_memory(home, tmp_path, monkeypatch):
    config = make_site(home, tmp_path / "site")
    folder = tmp_path / "images"
    for name in ("bad", "good"):
        (folder / name).mkdir(parents=True)
        (folder / name / "torn.png").write_bytes(b"torn")
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(folder)})})

    def full(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr(rehearsal, "train", full)
    found = {finding.name: finding for finding in rehearse(config, tmp_path / "site")}
    assert found["content"].code == EmptyClass.code
    assert "bad, good" in found["content"].text
    assert found["training"].code == OutOfMemory.code
