"""Wrong input gives one clear error: three lines, an exit code, a page, and never a traceback."""

from __future__ import annotations

import shutil
import socket
import sys

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from PIL import Image

from fedwon.common import errors
from fedwon.common.arrays import open_record, write_record
from fedwon.common.flower import host_app
from fedwon.common.model_file import describe, network
from fedwon.common.network_state import record_of
from fedwon.common.pki import create_authority, fingerprint
from fedwon.common.task_config import TaskConfig
from tests.e2e.fleet import Fleet, assert_error, command, environment, free_port, run_config

OTHER_VERSION = """
import sys
import fedwon.common.version as version
version.VERSION = "0.3.0"
from fedwon.client.cli import run
sys.argv = ["fedwon-client", *sys.argv[1:]]
run()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A federation whose server waits for sites; tests leave it as it is."""
    fleet = Fleet(tmp_path_factory.mktemp("running"))
    fleet.start_server()
    yield fleet
    fleet.close()


def token(fleet: Fleet, site: str, *options: object) -> list[str]:
    done = command("fedwon-server", "enroll", site, "--dir", fleet.dir, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def images(folder, **classes: int):
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(number):
            pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


class TestImages:
    def test_a_missing_folder(self, running, tmp_path):
        folder = running.site("nowhere", str(tmp_path / "nowhere"))
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.DataMissing)
        assert str(tmp_path / "nowhere") in found["error"]

    def test_an_empty_class(self, running, tmp_path):
        folder = running.site("empty-class", str(images(tmp_path / "images", ok=3, scratch=0)))
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.EmptyClass)
        assert "scratch" in found["error"]

    def test_joining_with_wrong_images_does_not_cost_the_token(self, running, tmp_path):
        line = token(running, "late-images")
        assert_error(command(*line, "--data", tmp_path / "gone", "--dir", tmp_path / "s"), errors.DataMissing)
        done = command(*line, "--data", "digits:paper", "--dir", tmp_path / "s")
        assert done.returncode == 0, done.stderr


class TestConfiguration:
    def test_unreadable_yaml(self, tmp_path):
        (tmp_path / "client.yaml").write_text("server: [127.0.0.1:1\ndata: {path: x}\n")
        found = assert_error(command("fedwon-client", "start", "--dir", tmp_path), errors.ConfigError)
        assert "client.yaml" in found["error"]
        assert "line" in found["error"]

    def test_bytes_that_are_no_text(self, tmp_path):
        (tmp_path / "server.yaml").write_bytes(b"\xff\xfe\x00\x81")
        found = assert_error(command("fedwon-server", "start", "--dir", tmp_path), errors.ConfigError)
        assert "UTF-8" in found["error"]

    def test_an_unknown_key(self, tmp_path):
        (tmp_path / "client.yaml").write_text("server: 127.0.0.1:1\ndata: {path: x}\nbatchsize: 1\n")
        found = assert_error(command("fedwon-client", "start", "--dir", tmp_path), errors.ConfigError)
        assert "`batchsize`" in found["error"]
        assert "batch_size" in found["error"]

    def test_an_unknown_key_of_the_server(self, tmp_path):
        fleet = Fleet(tmp_path)
        with (fleet.dir / "server.yaml").open("a") as file:
            file.write("listn: 0.0.0.0:1\n")
        found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.ConfigError)
        assert "did you mean `listen`" in found["error"]

    def test_no_configuration(self, tmp_path):
        assert_error(command("fedwon-client", "start", "--dir", tmp_path), errors.ConfigMissing)
        assert_error(command("fedwon-server", "status", "--dir", tmp_path), errors.ConfigMissing)

    def test_a_folder_that_is_taken(self, running):
        assert_error(command("fedwon-server", "init", running.dir), errors.FolderTaken)

    def test_a_key_that_others_can_read(self, running):
        folder = running.site("exposed", "digits:paper")
        (folder / "pki" / "site.key").chmod(0o644)
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.KeyExposed)
        assert "site.key" in found["error"]


class TestPorts:
    def test_a_port_in_use(self, tmp_path):
        fleet = Fleet(tmp_path)
        with socket.socket() as held:
            held.bind(("127.0.0.1", int(fleet.config.listen.split(":")[1])))
            held.listen()
            found = assert_error(command("fedwon-server", "start", "--dir", fleet.dir), errors.PortInUse)
        assert fleet.config.listen in found["error"]

    def test_a_second_server_and_an_evaluation_beside_a_running_one(self, running):
        assert_error(command("fedwon-server", "start", "--dir", running.dir), errors.PortInUse)


class TestEnrolment:
    def test_a_wrong_fingerprint_leaves_the_token_unused(self, running, tmp_path):
        line = token(running, "careful")
        wrong = list(line)
        wrong[wrong.index("--fingerprint") + 1] = fingerprint(create_authority(tmp_path / "other", "other").pem)
        options = ["--data", "digits:paper", "--dir", tmp_path / "careful"]
        found = assert_error(command(*wrong, *options), errors.WrongFingerprint)
        assert wrong[wrong.index("--fingerprint") + 1] in found["error"]
        done = command(*line, *options)
        assert done.returncode == 0, done.stderr

    def test_a_used_token(self, running, tmp_path):
        line = [*token(running, "twice"), "--data", "digits:paper"]
        assert command(*line, "--dir", tmp_path / "first").returncode == 0
        found = assert_error(command(*line, "--dir", tmp_path / "second"), errors.TokenUsed)
        assert "UTC" in found["error"]
        assert not (tmp_path / "second" / "client.yaml").exists()
        taken = assert_error(command(*line, "--dir", tmp_path / "first"), errors.FolderTaken)
        assert "client.yaml" in taken["error"]

    def test_an_expired_token(self, running, tmp_path):
        line = token(running, "slow", "--hours", "0.001")  # 3.6 s; a second or two have passed by now
        import time

        time.sleep(3.6)
        found = assert_error(command(*line, "--data", "digits:paper", "--dir", tmp_path / "slow"), errors.TokenExpired)
        assert "slow" in found["error"]

    def test_a_server_that_is_not_there(self, tmp_path):
        mark = "0" * 64
        line = ["fedwon-client", "join", f"127.0.0.1:{free_port()}", "--fingerprint", mark, "--token", "x"]
        assert_error(command(*line, "--data", "digits:paper", "--dir", tmp_path / "s"), errors.Unreachable)

    def test_the_port_for_sites_in_place_of_the_one_for_joining(self, running, tmp_path):
        line = token(running, "wrong-port")
        line[2] = running.config.listen
        found = assert_error(command(*line, "--data", "digits:paper", "--dir", tmp_path / "s"), errors.Unreachable)
        assert "enrolment" in found["hint"]

    @pytest.mark.parametrize("address", ["server.local", "http://server:8471", "server:"])
    def test_an_address_that_is_none(self, tmp_path, address):
        line = ["fedwon-client", "join", address, "--fingerprint", "0" * 64, "--token", "x", "--data", "digits:paper"]
        assert_error(command(*line, "--dir", tmp_path / "s"), errors.ConfigError)


class TestLink:
    def test_a_client_of_another_minor_version(self, running, tmp_path):
        folder = running.site("newer", "digits:paper")
        import subprocess

        done = subprocess.run(
            [sys.executable, "-c", OTHER_VERSION, "start", "--dir", str(folder)],
            capture_output=True, text=True, timeout=90, env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = assert_error(done, errors.VersionGap)
        assert "0.1.0" in found["error"]
        assert "0.3.0" in found["error"]
        line = token(running, "newer-too")[1:]
        done = subprocess.run(
            [sys.executable, "-c", OTHER_VERSION, *line, "--data", "digits:paper", "--dir", str(tmp_path / "n")],
            capture_output=True, text=True, timeout=90, env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert_error(done, errors.VersionGap)

    def test_two_clients_with_one_identity(self, running, tmp_path):
        folder = running.site("twin", "digits:paper")
        first = running.start_site("twin")
        first.wait_says("connected to")
        copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("client.sock"))
        found = assert_error(command("fedwon-client", "start", "--dir", copy, "--patience", "1"), errors.DuplicateSite)
        assert "`twin`" in found["error"]
        found = assert_error(
            command("fedwon-client", "start", "--dir", folder, "--patience", "0"), errors.DuplicateSite
        )
        assert str(folder) in found["error"]
        assert first.process.poll() is None
        assert first.stop() < 10

    def test_a_certificate_of_another_federation(self, running, tmp_path):
        other = Fleet(tmp_path)
        folder = other.site("stranger", "digits:paper")
        text = (folder / "client.yaml").read_text().replace(other.config.listen, running.config.listen)
        (folder / "client.yaml").write_text(text)
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.Refused)
        assert running.config.listen in found["error"]

    def test_a_certificate_that_the_server_does_not_accept(self, running, tmp_path):
        other = Fleet(tmp_path)
        folder = other.site("revoked", "digits:paper")
        # trusts the right server, but shows it a certificate that it did not sign
        own = running.site("own", "digits:paper")
        shutil.copy(own / "client.yaml", folder / "client.yaml")
        ours = (own / "pki" / "ca.pem").read_bytes()
        theirs = (folder / "pki" / "ca.pem").read_bytes()
        (folder / "pki" / "ca.pem").write_bytes(theirs + ours)
        found = assert_error(command("fedwon-client", "start", "--dir", folder), errors.Refused)
        assert "does not accept this site's certificate" in found["error"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    host_app()
    folder = tmp_path_factory.mktemp("models")
    task = TaskConfig.of(run_config(), run="x", server_round=1, classes=tuple("0123456789"))
    record = record_of(network(task))
    write_record(record, folder / "good.safetensors", describe(task))
    names = list(record)
    less = ArrayRecord({name: record[name] for name in names[1:]})
    more = ArrayRecord({**record, "added.weight": Array(ndarray=np.zeros((2, 2), np.float32))})
    write_record(less, folder / "less.safetensors", describe(task))
    write_record(more, folder / "more.safetensors", describe(task))
    write_record(record, folder / "foreign.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    assert open_record(folder / "good.safetensors")
    return folder, names[0]


class TestModelFiles:
    @pytest.mark.parametrize(("file", "said"), [("less", "missing"), ("more", "unknown added.weight")])
    def test_missing_and_extra_tensors(self, running, made, file, said):
        folder, first = made
        model = folder / f"{file}.safetensors"
        at_server = command("fedwon-server", "evaluate", "--model", model, "--dir", running.dir)
        at_site = command("fedwon-client", "evaluate", model, "--data", "digits:paper")
        for done in (at_server, at_site):
            found = assert_error(done, errors.ModelMismatch)
            assert said in found["error"]
            assert first in found["error"] or file == "more"

    @pytest.mark.parametrize("file", ["cut", "foreign"])
    def test_files_that_are_no_models_of_ours(self, made, file):
        folder, _ = made
        done = command("fedwon-client", "evaluate", folder / f"{file}.safetensors", "--data", "digits:paper")
        found = assert_error(done, errors.BrokenFile)
        assert file in found["error"]

    def test_a_model_file_that_is_not_there(self, made):
        done = command("fedwon-client", "evaluate", made[0] / "none.safetensors", "--data", "digits:paper")
        assert_error(done, errors.StorageError)
