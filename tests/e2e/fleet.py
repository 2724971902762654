"""A real server and real sites, each a process of its own, started through the installed commands."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from fedwon.client.config import ClientConfig
from fedwon.common.arrays import open_record
from fedwon.common.config import dump, parse
from fedwon.common.pki import Credentials, load_authority, new_key, request, save_credentials
from fedwon.common.run_config import RunConfig
from fedwon.server.config import ServerConfig
from fedwon.server.link.service import issue
from fedwon.server.serving import Home

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
POWER_CUT = Path(__file__).parent / "power_cut"
PATIENCE = 90.0
"""Seconds for things that take two or three: the machine may be busy."""

SITES = ("metal", "paper")
TINY = {
    "name": "tiny",
    "rounds": 3,
    "seed": 7,
    "model": {"name": "digit_cnn", "width": 0.05},
    "images": {"max_train": 20, "channels": 1},
    "training": {"batch_size": 8, "lr": 0.02, "clipping": 0.64},
    "participation": {"minimum": 2, "pause_seconds": None},
    "traffic": {"up": "plain", "down": "plain"},  # tests count the pieces of a file; test_codecs.py has the others
}
_ports = count(20000 + 1500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + os.getpid() % 700)


def images(path: Path) -> Path:
    """Write a line's images: noise that follows from the line's name. The built-in digits take seconds to render."""
    rng = np.random.default_rng(list(path.stem.encode()))
    pixels = rng.integers(0, 255, (100, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(100) % 4)
    return path


def free_port() -> int:
    """Below the range of outgoing connections, and another one in each worker."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError


def run_config(changes: Mapping[str, object] | None = None) -> RunConfig:
    content = {**TINY, **(changes or {})}
    return parse(RunConfig, content, "test")


def environment() -> dict[str, str]:
    return {**os.environ, "FEDWON_DEBUG": "", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def dying(fault: Mapping[str, object] | None) -> dict[str, str]:
    """The environment of a process that dies at a named point; see power_cut/sitecustomize.py."""
    if fault is None:
        return environment()
    path = os.pathsep.join([str(POWER_CUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**environment(), "PYTHONPATH": path, "FEDWON_TEST_FAULT": json.dumps(fault)}


def wait_until(true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(0.02)


def command(*arguments: object, timeout: float = PATIENCE, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end: `command("fedwon-server", "status")`."""
    name, *rest = map(str, arguments)
    kwargs.setdefault("env", environment())
    return subprocess.run(
        [str(BIN / name), *rest], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **kwargs
    )


def assert_error(done, kind) -> dict[str, str]:
    """Check the three lines of an error, its exit code and its page; return the lines by label."""
    text = done.stderr
    assert "Traceback" not in text, text
    assert done.returncode == kind.code, (done.returncode, text)
    lines = [line for line in text.splitlines() if re.match(r"(error|hint|see): ", line)]
    assert [line.split(":")[0] for line in lines] == ["error", "hint", "see"], text
    assert text.splitlines()[-3:] == lines, text  # nothing follows
    found = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines}
    assert found["see"] == f"docs/errors/{kind.slug}.md"
    assert (ROOT / found["see"]).is_file()
    assert len(found["hint"]) > 10
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


class Process:
    """A command that goes on; both its outputs go to one file."""

    def __init__(self, arguments: list[str], log: Path, **kwargs) -> None:
        self.log = log
        kwargs.setdefault("env", environment())
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                arguments, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **kwargs
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.text()) is not None

    def wait_says(self, pattern: str, patience: float = PATIENCE) -> None:
        def there() -> bool:
            if self.says(pattern):
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            return False

        try:
            wait_until(there, pattern, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Like a power cut."""
        self.process.kill()
        self.process.wait()

    def end(self, expected: int | None = 0, patience: float = PATIENCE) -> str:
        """Wait for the end and check the exit code; return what it said."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {patience:.0f} s:\n{self.text()}") from None
        assert expected is None or code == expected, f"exit code {code}:\n{self.text()}"
        return self.text()

    def stop(self, expected: int | None = 0, number: int = signal.SIGTERM) -> float:
        """End it with a signal; return the seconds that took."""
        began = time.monotonic()
        self.send(number)
        self.end(expected)
        return time.monotonic() - began


class Fleet:
    """A server's folder, its sites' folders, and the processes in them."""

    def __init__(
        self,
        folder: Path,
        changes: Mapping[str, object] | None = None,
        *,
        server: Path | None = None,
        names: tuple[str, ...] = ("127.0.0.1",),
        host: str = "127.0.0.1",
        heartbeat: float = 0.5,
        page: str | None = None,
    ) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self.config = ServerConfig(
            federation="test",
            listen=f"{host}:{free_port()}",
            enrolment=f"127.0.0.1:{free_port()}",
            names=names,
            heartbeat_seconds=heartbeat,
            page=page,
            run=run_config(changes),
        )
        self.home = Home.create(server or folder / "server", self.config)
        self.home.store.close()

    @property
    def dir(self) -> Path:
        return self.home.folder

    def configure(self, **changes: object) -> None:
        """Write server.yaml anew with another run."""
        self.config = self.config.model_copy(update={"run": run_config(changes)})
        (self.dir / "server.yaml").write_text(dump(self.config))

    def site(self, name: str, data: str | None = None, *, home: Path | None = None, **settings: object) -> Path:
        """Make a site as joining does, without the seconds that two processes take."""
        folder = home or self.folder / name
        self.enrol(name, folder)
        where = data or str(images(self.folder / f"{name}.npz"))
        content = {"server": self.config.listen, "data": {"path": where}, "threads": 1, **settings}
        (folder / "client.yaml").write_text(dump(parse(ClientConfig, content, "test")))
        return folder

    def enrol(self, name: str, folder: Path) -> None:
        """Put a key and a certificate of this federation into a folder."""
        key = new_key()
        home = Home.open(self.dir)
        certificate = issue(home.store, home.authority, request(name, key), name)
        home.store.close()
        save_credentials(folder / "pki", "site", Credentials(load_authority(self.dir / "pki").pem, certificate, key))

    def spawn(self, *arguments: object, log: str, within: Sequence[str] = (), **kwargs) -> Process:
        """Start a command; `within` is put ahead of it: `ip netns exec NAME`."""
        name, *rest = map(str, arguments)
        path = next(p for n in count() if not (p := self.folder / f"{log}-{n}.log").exists())
        process = Process([*within, str(BIN / name), *rest], path, **kwargs)
        self.processes.append(process)
        return process

    def start_server(self, *options: object, wait: bool = True, fault: Mapping[str, object] | None = None) -> Process:
        process = self.spawn("fedwon-server", "start", "--dir", self.dir, *options, log="server", env=dying(fault))
        if wait:
            process.wait_says("listening on")
        return process

    def start_site(
        self,
        name: str,
        *options: object,
        folder: Path | None = None,
        fault: Mapping[str, object] | None = None,
        within: Sequence[str] = (),
    ) -> Process:
        where, log = folder or self.folder / name, f"site-{name}"
        return self.spawn("fedwon-client", "start", "--dir", where, *options, log=log, within=within, env=dying(fault))

    def said(self, log: str) -> str:
        """Everything that the processes with that log have said, one after the other."""
        logs = sorted(self.folder.glob(f"{log}-*.log"), key=lambda path: path.stat().st_ctime_ns)
        return "".join(path.read_text(errors="replace") for path in logs)

    def status(self) -> dict:
        done = command("fedwon-server", "status", "--dir", self.dir, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["runs"][0]

    def runs(self) -> list[Path]:
        return sorted((self.dir / "runs").glob("*"), key=lambda path: path.stat().st_mtime)

    def digests(self, run: Path | None = None) -> list[str]:
        return digests(run or self.runs()[-1])

    def close(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
            process.process.wait()


def digests(run: Path) -> list[str]:
    """A digest of the arrays of each round's model; the files differ, for their headers name the run."""
    from hashlib import sha256

    found = []
    for path in sorted(run.glob("round-*.safetensors")):
        state = sha256()
        for name, array in open_record(path).items():
            state.update(f"{name} {array.dtype} {list(array.shape)}".encode())
            state.update(array.numpy().tobytes())
        found.append(state.hexdigest())
    return found
