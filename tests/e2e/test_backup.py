"""A backup of a server that runs, and another machine that goes on from it."""

from __future__ import annotations

import signal
import stat

import pytest

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common import errors
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store
from tests.e2e.fleet import assert_error, command, digests, images, run_config

SITES = ("metal", "paper")
ROUNDS = 4
CHANGES = {
    "rounds": ROUNDS,
    "training": {"batch_size": 1, "lr": 0.02, "epochs": 3},
    "images": {"max_train": 60, "channels": 1},
}
"""A round of a second, so that the server can be caught between two."""


@pytest.fixture
def undisturbed(tmp_path):
    sites = {name: SiteConfig(data=DataConfig(path=str(images(tmp_path / f"{name}.npz"))), threads=1) for name in SITES}
    store = Store(tmp_path / "undisturbed.db")
    outcome = federate(InProcessGrid(sites, tmp_path), run_config(CHANGES), store, tmp_path)
    store.close()
    return digests(outcome.model.parent)


def test_a_server_that_is_lost_goes_on_elsewhere(fleets, tmp_path, undisturbed):
    """Backed up in the middle of a run, killed some rounds later; restored, it ends with the same bits."""
    fleet = fleets(**CHANGES)
    server = fleet.start_server()
    for name in SITES:
        fleet.site(name)
    running = [fleet.start_site(name, "--until-finished") for name in SITES]
    server.wait_says("round 1 committed")
    running[0].send(signal.SIGSTOP)  # round 2 stays open while the backup is made
    archive = tmp_path / "backup.tar"
    done = command("fedwon-server", "backup", "--dir", fleet.dir, "--out", archive)
    assert done.returncode == 0, done.stderr
    assert "private keys" in done.stderr
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert_error(command("fedwon-server", "backup", "--dir", fleet.dir, "--out", archive), errors.FolderTaken)
    assert not server.says("round 3 committed")
    running[0].send(signal.SIGCONT)
    server.wait_says("round 3 committed")  # sites are ahead of the backup now
    server.kill()

    new = tmp_path / "another-machine"
    assert_error(command("fedwon-server", "restore", archive, "--dir", fleet.dir), errors.FolderTaken)
    done = command("fedwon-server", "restore", archive, "--dir", new)
    assert done.returncode == 0, done.stderr
    assert f"fedwon-server start --dir {new} --auto-resume" in done.stdout
    [run] = (new / "runs").iterdir()
    kept = len(digests(run)) - 1
    assert kept in {1, 2}  # the site was stopped in round 2, or just after it
    again = fleet.spawn("fedwon-server", "start", "--dir", new, "--resume", log="restored")
    again.end()
    for site in running:
        site.end()
    assert digests(run) == undisturbed
    assert again.says(f"round {kept + 1} of {ROUNDS} is next")


def test_a_file_that_is_no_backup(tmp_path):
    (tmp_path / "some.tar").write_bytes(b"no tar at all" * 100)
    found = assert_error(
        command("fedwon-server", "restore", tmp_path / "some.tar", "--dir", tmp_path / "new"), errors.BrokenFile
    )
    assert "some.tar" in found["error"]
    assert not (tmp_path / "new").exists()
    assert_error(
        command("fedwon-server", "restore", tmp_path / "none.tar", "--dir", tmp_path / "new"), errors.StorageError
    )
