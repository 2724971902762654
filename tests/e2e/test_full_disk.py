"""A disk without space: what was finished is kept, and it goes on when there is room again."""

from __future__ import annotations

from fedwon.common import errors
from tests.e2e.faults import fill
from tests.e2e.fleet import Fleet, assert_error, command, wait_until


def test_of_the_server(tmp_path, small_disk):
    """Both updates of a round find room, the new global model does not."""
    changes = {"rounds": 3, "model": {"width": 0.1}, "training": {"batch_size": 1, "epochs": 2}}
    fleet = Fleet(tmp_path, changes, server=small_disk / "server")
    try:
        for name in ("paper", "metal"):
            fleet.site(name)
        server = fleet.start_server()
        sites = [fleet.start_site(name, "--until-finished") for name in ("paper", "metal")]
        sites[0].wait_says("train, round 1")
        [first] = small_disk.glob("server/runs/*/round-0000.safetensors")
        ballast = fill(small_disk, leave=2 * first.stat().st_size + 400_000)
        said = server.end(errors.DiskFull.code)
        assert "Traceback" not in said
        assert [line.split(":")[0] for line in said.splitlines()[-3:]] == ["error", "hint", "see"]
        assert "round-0001" in said.splitlines()[-3]
        assert "see: docs/errors/disk-full.md" in said
        kept = fleet.digests()
        assert len(kept) == 1
        assert all(site.process.poll() is None for site in sites)

        ballast.unlink()
        again = fleet.start_server("--resume")
        again.end()
        assert fleet.digests()[0] == kept[0]
        assert len(fleet.digests()) == 4
        assert len(fleet.runs()) == 1
    finally:
        fleet.close()


def test_of_a_site(tmp_path, small_disk):
    """The journal cannot be written: the server hears why, and the site goes on when there is room."""
    participation = {"minimum": 2, "quorum": 2, "retries": 50}
    fleet = Fleet(tmp_path, {"rounds": 2, "participation": participation})
    try:
        fleet.site("paper", home=small_disk / "paper")
        fleet.site("metal")
        server = fleet.start_server()
        paper = fleet.start_site("paper", "--until-finished", folder=small_disk / "paper")
        paper.wait_says("connected to")
        ballast = fill(small_disk)
        metal = fleet.start_site("metal", "--until-finished")
        server.wait_says("no update from paper: disk-full: No space left")
        assert paper.process.poll() is None
        wait_until(lambda: paper.says("task failed: No space left"), "the site's own word")
        ballast.unlink()
        server.end()
        for site in (paper, metal):
            site.end()
        assert len(fleet.digests()) == 3
    finally:
        fleet.close()


def test_checking_and_joining_on_a_full_disk(tmp_path, small_disk):
    fleet = Fleet(tmp_path)
    try:
        fleet.start_server()
        folder = fleet.site("paper", home=small_disk / "paper")
        line = command("fedwon-server", "enroll", "metal", "--dir", fleet.dir).stdout.split()
        ballast = fill(small_disk)
        done = command("fedwon-client", "check", "--quick", "--dir", folder)
        assert done.returncode == errors.DiskFull.code
        assert "FAILED disk: No space left" in done.stdout
        join = [*line, "--data", "digits:metal", "--dir", small_disk / "metal"]
        assert_error(command(*join), errors.DiskFull)
        ballast.unlink()
        done = command(*join)  # the token was not used up
        assert done.returncode == 0, done.stderr
    finally:
        fleet.close()
