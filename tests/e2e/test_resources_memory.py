"""Too little memory on an edge box: the task fails with advice, and the site stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.faults import SLOW, change_site
from tests.e2e.fleet import Fleet, Process, environment

MB = 2**20
LARGE = {
    "rounds": 1,
    "model": {"name": "digit_cnn", "width": 0.1},
    "images": {"max_train": 60, "channels": 1, "size": 192},
    "training": {"batch_size": 64, "lr": 0.001, "clipping": 0.64},
}
"""A step on 60 images takes 800 MB, one on a single image 15; an evaluation of 20 takes 150."""
ROOM = 300 * MB
"""What a site has for that, on top of what PyTorch takes when it is loaded."""
LOADED = """
import fedwon.client.link.site_link, fedwon.client.app
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))
"""
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def room() -> int:
    """Megabytes of memory in which small steps fit and large ones do not; builds of PyTorch differ by hundreds."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, env=environment())
    return round((int(done.stdout) + ROOM) / 0.9 / MB)


@pytest.fixture
def control_group(room) -> Iterator[Path]:
    """A control group with that limit, version 1 or 2."""
    version_1 = (CGROUPS / "memory" / "memory.limit_in_bytes").exists()
    top, name = (CGROUPS / "memory", "memory.limit_in_bytes") if version_1 else (CGROUPS, "memory.max")
    group = top / f"fedwon-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(room * MB))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    yield group
    group.rmdir()


def test_the_task_fails_with_advice_and_the_same_process_does_the_next_one(fleets, room):
    fleet = fleets(participation={"minimum": 2, "quorum": 1, "retries": 0}, **LARGE)
    fleet.site("paper", memory_mb=room)
    fleet.site("metal", batch_size=8)
    server = fleet.start_server()
    paper, metal = (fleet.start_site(name, "--until-finished") for name in ("paper", "metal"))
    said = server.end()
    failure = next(line for line in said.splitlines() if "no update from paper" in line)
    assert "out-of-memory: Memory ran out in this task: batches of 64, images of 192 x 192 pixels, width 0.1" in failure
    assert f"{room} MB (`memory_mb` in client.yaml)" in failure
    assert "lower `batch_size` (now 64" in failure
    assert "Traceback" not in paper.end()
    metal.end()
    assert set(fleet.status()["scores"]) == {"metal", "paper"}  # the final evaluation was the next task


@pytest.mark.matrix
def test_in_a_control_group_it_is_no_death_and_a_smaller_batch_is_the_way_out(control_group, fleets, room):
    fleet: Fleet = fleets(participation={"minimum": 2, "retries": 0}, **LARGE)
    fleet.site("paper")
    fleet.site("metal", batch_size=8)

    def start_inside() -> Process:
        begin = f"echo $$ > {control_group / 'cgroup.procs'} && exec fedwon-client start --until-finished --dir"
        path = fleet.folder / f"inside-{len(fleet.processes)}.log"
        environ = environment()
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        process = Process(["sh", "-c", f"{begin} {fleet.folder / 'paper'}"], path, env=environ)
        fleet.processes.append(process)
        return process

    server, paper, metal = fleet.start_server(), start_inside(), fleet.start_site("metal", "--until-finished")
    server.wait_says("no update from paper: out-of-memory: Memory ran out in this task: batches of 64")
    server.wait_says("the run pauses: .*paper .out-of-memory")
    assert f"{room} MB (the memory limit of its control group or container)" in server.text()
    assert paper.process.poll() is None
    paper.stop()
    change_site(fleet.folder / "paper", batch_size=8)
    paper = start_inside()
    server.end()
    for site in (paper, metal):
        site.end()
    assert "Memory ran out" not in paper.text()
    assert "90 % of the memory limit of its control group" in paper.text()


def test_a_task_in_which_the_process_died_twice_is_given_back(fleets):
    fleet = fleets(rounds=2, participation={"minimum": 2, "retries": 2}, **SLOW)
    fleet.site("paper")
    fleet.site("metal")
    server, metal = fleet.start_server(), fleet.start_site("metal", "--until-finished")
    for _ in range(2):
        paper = fleet.start_site("paper", "--until-finished")
        paper.wait_says("train, round 1")
        assert [path.name for path in (fleet.folder / "paper" / "journal").glob("*.attempt")]
        paper.kill()
    paper = fleet.start_site("paper", "--until-finished")
    server.wait_says("no update from paper: out-of-memory: .* ended without a word 2 times in this task")
    server.end()  # asked for again, it was tried again
    for site in (paper, metal):
        site.end()
    assert paper.text().count("train, round 1") == 1
    assert not list((fleet.folder / "paper" / "journal").iterdir())
