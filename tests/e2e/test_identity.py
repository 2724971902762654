"""Who gets in and who does not, with real processes: each refusal as the one who is refused sees it, and on record."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import select

from fedwon.common import errors, pki
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.records import blob_of
from fedwon.server.auditing import trail
from fedwon.server.store import TaskRow
from tests.e2e.fleet import PATIENCE, Fleet, assert_error, command, images, wait_until
from tests.e2e.raw_site import RawSite


def operated(fleet: Fleet, *arguments: object) -> str:
    """Type an operator's command that succeeds."""
    done = command("fedwon-server", *arguments, "--dir", fleet.dir)
    assert done.returncode == 0, done.stderr
    return done.stdout


def audit(fleet: Fleet, action: str, subject: str | None = None) -> list[dict]:
    return [line for line in trail(fleet.home.store) if line["action"] == action and subject in {None, line["subject"]}]


def audited(fleet: Fleet, action: str, subject: str | None = None) -> dict:
    """Wait for a line of the audit trail; it is written within a second."""
    wait_until(lambda: audit(fleet, action, subject), f"an audit line `{action}`")
    return audit(fleet, action, subject)[-1]


def join(fleet: Fleet, folder: Path, token: str):
    mark = pki.fingerprint(pki.load_authorities(fleet.dir / "pki")[-1].pem)
    data = images(fleet.folder / f"{folder.name}.npz")
    where = ["--dir", folder, "--data", data, "--threads", 1]
    return command("fedwon-client", "join", fleet.config.enrolment, "--fingerprint", mark, "--token", token, *where)


def token_for(fleet: Fleet, site: str) -> str:
    return json.loads(operated(fleet, "sites", "add", site, "--json"))["token"]


def counterfeit(fleet: Fleet, name: str, authority: pki.Authority, days: float = 30) -> Path:
    """Make a site's folder with a certificate of our own making."""
    folder = fleet.site(name)
    key = pki.new_key()
    certificate = pki.sign_request(authority, pki.request(name, key), name, days)
    ours = pki.load_authority(fleet.dir / "pki").pem
    bundle = ours if authority.pem == ours else ours + authority.pem
    pki.save_credentials(folder / "pki", "site", pki.Credentials(bundle, certificate, key))
    return folder


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A server that waits for more sites than there are."""
    fleet = Fleet(tmp_path_factory.mktemp("identity"), {"participation": {"minimum": 9}})
    fleet.start_server()
    yield fleet
    fleet.close()


class TestStrangers:
    def test_an_outsider_without_a_certificate(self, waiting):
        outsider = RawSite(waiting.config.listen, None, root=pki.load_authority(waiting.dir / "pki").pem)
        error = outsider.refusal(outsider.connect)
        outsider.close()
        assert type(error) is errors.Unreachable
        assert waiting.config.listen in error.message
        assert "does not accept this site's certificate" in error.hint
        line = audited(waiting, "refused: handshake with no certificate")
        assert line["detail"] == "TLS ended the connection before there was a name"

    def test_an_outsider_with_a_token_of_its_own_making(self, waiting):
        done = join(waiting, waiting.folder / "outsider", "x" * 32)
        said = assert_error(done, errors.TokenUsed)
        assert "unknown or was used before" in said["error"]
        assert "fedwon-server enroll" in said["hint"]
        assert "unknown" in audited(waiting, "refused: enrolment", "127.0.0.1")["detail"]

    def test_a_site_with_an_expired_certificate(self, waiting):
        counterfeit(waiting, "expired", pki.load_authority(waiting.dir / "pki"), days=-0.005)
        site = waiting.start_site("expired")
        said = site.end(errors.Refused.code)
        assert f"error: {waiting.config.listen} does not accept this site's certificate." in said
        assert "has expired or was revoked" in said
        assert audited(waiting, "refused: handshake with expired certificate")["times"] >= 1

    def test_a_site_with_a_certificate_of_another_federation(self, waiting, tmp_path):
        counterfeit(waiting, "foreign", pki.create_authority(tmp_path / "pki", "test"))
        site = waiting.start_site("foreign")
        said = site.end(errors.Refused.code)
        assert f"error: {waiting.config.listen} does not accept this site's certificate." in said
        assert "of another federation" in said
        assert audited(waiting, "refused: handshake with foreign certificate")["times"] >= 1

    def test_a_revoked_site(self, waiting):
        folder = waiting.site("stolen")
        operated(waiting, "sites", "revoke", "stolen", "--reason", "the box was stolen")
        said = assert_error(command("fedwon-client", "start", "--dir", folder), errors.Revoked)
        assert "The certificate of site `stolen` was revoked at" in said["error"]
        assert said["error"].endswith("UTC: the box was stolen.")
        assert "fedwon-server sites add" in said["hint"]
        line = audited(waiting, "refused: revoked certificate", "stolen")
        assert "from 127.0.0.1: The certificate of site `stolen` was revoked" in line["detail"]
        [who] = audit(waiting, "site revoked", "stolen")
        assert (who["detail"], bool(who["actor"])) == ("the box was stolen", True)
        checked = command("fedwon-client", "check", "--quick", "--dir", folder)
        assert checked.returncode == errors.Revoked.code, checked.stdout

    def test_a_replayed_enrolment(self, waiting):
        token = token_for(waiting, "twice")
        assert join(waiting, waiting.folder / "twice", token).returncode == 0
        said = assert_error(join(waiting, waiting.folder / "replay", token), errors.TokenUsed)
        assert "It was used at" in said["error"]
        assert "It was used at" in audited(waiting, "refused: replayed enrolment", "twice")["detail"]
        assert not (waiting.folder / "replay" / "client.yaml").exists()

    def test_a_site_that_claims_anothers_name(self, waiting):
        waiting.site("victim")
        claimant = RawSite(waiting.config.listen, waiting.site("claimant"))
        request = pb.RenewRequest(certificate_request=pki.request("victim", pki.new_key()), bundle=True)
        reply = claimant.stub.Renew(request, timeout=PATIENCE)
        assert pki.site_of(reply.certificate) == "claimant"
        welcome = claimant.connect()
        claimant.close()
        assert welcome.site == "claimant"
        line = audited(waiting, "refused: another site's name", "claimant")
        assert line["detail"] == "its certificate request says 'victim', which was ignored"


def test_a_site_that_asks_for_anothers_task(fleets):
    fleet = fleets(rounds=1, participation={"minimum": 2})
    fleet.start_server()
    victim, thief = (RawSite(fleet.config.listen, fleet.site(name)) for name in ("victim", "thief"))
    for site in (victim, thief):
        site.connect()
    offer, own = victim.next("offer"), thief.next("offer")
    assert thief.fetch(blob_of(own.records).digest)  # its own is there for it
    error = thief.refusal(lambda: thief.submit(offer.task_id))
    assert type(error) is errors.Refused
    assert f"Task {offer.task_id} is not waited for" in error.message
    assert "fedwon-server sites" in error.hint
    assert "victim" in audited(fleet, "refused: another site's task", "thief")["detail"]
    thief.say(pb.FromSite(failed=pb.TaskFailed(task_id=offer.task_id, error="data", message="not mine")))
    wait_until(lambda: audit(fleet, "refused: another site's task", "thief")[-1]["times"] == 2, "a second attempt")
    assert fleet.status()["waiting_for"] == ["thief", "victim"]  # nothing of it had an effect
    for site in (victim, thief):
        site.close()


def test_a_site_that_asks_for_the_model_of_others(fleets):
    fleet = fleets(rounds=1, participation={"minimum": 1})
    fleet.start_server()
    member = RawSite(fleet.config.listen, fleet.site("member"))
    member.connect()
    digest = blob_of(member.next("offer").records).digest
    late = RawSite(fleet.config.listen, fleet.site("late"))
    late.connect()  # enrolled, and not asked in this round
    error = late.refusal(lambda: late.fetch(digest))
    assert type(error) is errors.Refused
    assert error.message == f"No task of site late is about the model {digest[:12]}."
    assert digest[:12] in audited(fleet, "refused: another site's task", "late")["detail"]
    for site in (member, late):
        site.close()


def tasks_of(fleet: Fleet, site: str) -> list[TaskRow]:
    with fleet.home.store.session() as session:
        return list(session.scalars(select(TaskRow).where(TaskRow.site == site)))


def test_a_revocation_in_the_middle_of_a_run(fleets):
    """Its session ends, its task counts as failed, the round closes without it, and the run goes on."""
    fleet = fleets(rounds=2, participation={"minimum": 2, "quorum": 1})
    server = fleet.start_server()
    stolen = RawSite(fleet.config.listen, fleet.site("stolen"))
    stolen.connect()
    fleet.site("paper")
    paper = fleet.start_site("paper", "--until-finished")
    offer = stolen.next("offer")
    operated(fleet, "sites", "revoke", "stolen", "--reason", "the box was stolen")
    error = stolen.end()
    assert type(error) is errors.Revoked
    assert "the box was stolen" in error.message
    assert type(stolen.refusal(lambda: stolen.submit(offer.task_id))) is errors.Revoked
    server.wait_says("round 1 committed")
    [task] = tasks_of(fleet, "stolen")
    assert (task.state, task.reason) == ("failed", "revoked: the box was stolen")
    assert "its open session was ended" in audited(fleet, "refused: revoked certificate", "stolen")["detail"]
    # sites are added while the run goes on: another one, and this one with a new certificate
    assert join(fleet, fleet.folder / "metal", token_for(fleet, "metal")).returncode == 0
    metal = fleet.start_site("metal", "--until-finished")
    for process in (server, paper, metal):
        process.end()
    assert fleet.status()["committed"] == 2
    stolen.close()


def test_a_site_that_enrols_anew_after_a_revocation(waiting):
    old = waiting.site("again")
    operated(waiting, "sites", "revoke", "again")
    assert join(waiting, waiting.folder / "again-2", token_for(waiting, "again")).returncode == 0
    fresh = RawSite(waiting.config.listen, waiting.folder / "again-2")
    assert fresh.connect().site == "again"
    stale = RawSite(waiting.config.listen, old)
    assert type(stale.refusal(stale.connect)) is errors.Revoked
    shown = json.loads(operated(waiting, "sites", "--json"))["sites"]
    assert next(row["revoked"] for row in shown if row["site"] == "again") is None
    for site in (fresh, stale):
        site.close()


def test_a_change_of_authority_and_of_the_servers_certificate_in_the_middle_of_a_run(fleets):
    fleet = fleets(rounds=500)
    server = fleet.start_server()
    away = fleet.site("away")
    sites = {}
    for name in ("paper", "metal"):
        fleet.site(name)
        sites[name] = fleet.start_site(name)
    server.wait_says("round 1 committed")

    operated(fleet, "certificate", "renew")
    operated(fleet, "authority", "roll")
    refused = command("fedwon-server", "authority", "retire", "--dir", fleet.dir)
    said = assert_error(refused, errors.Refused)  # the others may have renewed by now
    assert re.search(r"sites have not renewed yet: .*away", said["error"])
    assert "--force" in said["hint"]
    for site in sites.values():
        site.wait_says("the site's certificate was renewed")
    operated(fleet, "sites", "revoke", "away")  # or the operator waits until it has been back

    def retired() -> bool:
        return command("fedwon-server", "authority", "retire", "--dir", fleet.dir).returncode == 0

    wait_until(retired, "sites that use their new certificates")
    assert len(pki.load_authorities(fleet.dir / "pki")) == 1

    before = fleet.status()["committed"]
    sites["paper"].stop()  # and comes back: both sides show certificates of the new authority only
    again = fleet.start_site("paper")
    again.wait_says("connected to")
    wait_until(lambda: fleet.status()["committed"] > before + 1, "rounds under the new authority")
    assert (
        pki.load_credentials(fleet.folder / "metal" / "pki", "site").authority
        == pki.load_authority(fleet.dir / "pki").pem
    )
    checked = command("fedwon-client", "check", "--quick", "--dir", away)  # it was off all the time
    assert checked.returncode == errors.Refused.code, checked.stdout
    operated(fleet, "audit")
    assert {"authority rolled", "authority retired", "server certificate renewed"} <= {
        line["action"] for line in json.loads(operated(fleet, "audit", "--json", "--last", 500))["audit"]
    }
    for process in (sites["metal"], again, server):
        process.stop(number=signal.SIGTERM)


def test_init_that_died_half_way_is_run_again(tmp_path):
    made = command("fedwon-server", "init", tmp_path / "fed", "--name", "127.0.0.1")
    assert made.returncode == 0, made.stderr
    mark = pki.fingerprint((tmp_path / "fed" / "pki" / "ca.pem").read_bytes())
    (tmp_path / "fed" / "server.yaml").unlink()  # written last
    (tmp_path / "fed" / "pki" / "server.pem").unlink()
    shutil.copy(tmp_path / "fed" / "pki" / "ca.pem", tmp_path / "kept.pem")
    again = command("fedwon-server", "init", tmp_path / "fed", "--name", "127.0.0.1")
    assert again.returncode == 0, again.stderr
    assert mark in again.stdout
    other = command("fedwon-server", "init", tmp_path / "fed")
    assert other.returncode == errors.FolderTaken.code


def test_an_enrolment_that_is_tried_again_and_again_is_told_to_wait(waiting):
    """And a good token is taken all the same."""
    token = token_for(waiting, "patient")
    outsider = RawSite(waiting.config.enrolment, None, root=pki.load_authority(waiting.dir / "pki").pem)
    stub = rpc.EnrolmentStub(outsider.channel)
    request = pki.request("site", pki.new_key())

    def attempt(secret: str) -> None:
        message = pb.EnrollRequest(token=secret, certificate_request=request, version=VERSION)
        stub.Enroll(message, timeout=PATIENCE)

    said = [outsider.refusal(lambda: attempt("guess")) for _ in range(12)]
    outsider.close()
    assert type(said[-1]) is errors.TooManyAttempts
    assert "from 127.0.0.1; try again in" in said[-1].message
    assert audited(waiting, "refused: too many attempts to join", "127.0.0.1")["times"] >= 1
    assert join(waiting, waiting.folder / "patient", token).returncode == 0
