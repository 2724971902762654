"""Replacing an authority and the server's certificate: what is on the disk after each step, and after a power cut."""

from __future__ import annotations

import contextlib
import stat
from datetime import UTC, datetime, timedelta

import pytest

from fedwon.common import pki
from fedwon.common.certificates import read_certificate, signed_by
from fedwon.common.errors import KeyExposed
from fedwon.server.identity import authorities
from fedwon.server.identity.authorities import LiveTrust, Trust, renew_server, retire, roll, server_is_due

NAMES = ("127.0.0.1",)


@pytest.fixture
def folder(tmp_path):
    authority = pki.create_authority(tmp_path, "test")
    pki.save_credentials(tmp_path, "server", pki.issue_server(authority, NAMES))
    return tmp_path


def server(folder):
    return read_certificate((folder / "server.pem").read_bytes(), "server.pem")


def test_a_new_authority_signs_and_the_old_one_stays_trusted(folder):
    old = pki.load_authority(folder)
    made = roll(folder)
    trust = Trust(pki.load_authorities(folder))
    assert [pki.fingerprint(one.pem) for one in trust.authorities] == [
        pki.fingerprint(made.pem),
        pki.fingerprint(old.pem),
    ]
    assert trust.current.pem == made.pem != old.pem == trust.oldest.pem
    assert trust.current.name == "test"
    assert len(trust.key_ids) == 2
    assert trust.signer(bundle=True).pem == made.pem
    assert trust.signer(bundle=False).pem == old.pem  # a site that knows one authority only
    assert signed_by(server(folder), old.certificate)  # all that a site that is away knows
    pki.load_credentials(folder, "server")


def test_every_key_is_for_its_owner_only_and_refused_if_not(folder):
    roll(folder)
    keys = sorted(folder.glob("*.key"))
    assert len(keys) == 3
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        key.chmod(0o640)
        with pytest.raises(KeyExposed, match=key.name):
            (pki.load_credentials(folder, "server"), pki.load_authorities(folder))
        key.chmod(0o600)


def test_retiring_leaves_one_authority_and_a_server_certificate_of_it(folder):
    old, made = pki.load_authority(folder), roll(folder)
    assert retire(folder, NAMES) == [pki.fingerprint(old.pem)]
    assert [one.pem for one in pki.load_authorities(folder)] == [made.pem]
    assert signed_by(server(folder), made.certificate)
    pki.load_credentials(folder, "server")
    assert not (folder / "ca.key").exists()
    assert retire(folder, NAMES) == []


def test_it_can_be_done_again(folder):
    for _ in range(3):
        made = roll(folder)
        retire(folder, NAMES)
        assert pki.load_authority(folder).pem == made.pem
    assert len(list(folder.glob("*.key"))) == 2


@pytest.mark.parametrize("target", ["ca.pem", "server.pem", "server.key"])
@pytest.mark.parametrize("step", ["roll", "retire"])
def test_a_power_cut_in_the_middle_of_it(folder, monkeypatch, target, step):
    """Whatever was not written yet: the authorities still load, and the server's certificate can be made anew."""
    if step == "retire":
        roll(folder)

    class Cut(BaseException):
        pass

    def cut(real):
        def write(path, data, **options):
            if path.name == target:
                raise Cut
            real(path, data, **options)

        return write

    monkeypatch.setattr(authorities, "write_atomic", cut(authorities.write_atomic))
    monkeypatch.setattr(authorities, "write_private", cut(authorities.write_private))
    with_cut = {"roll": lambda: roll(folder), "retire": lambda: retire(folder, NAMES)}[step]
    with contextlib.suppress(Cut):
        with_cut()
    monkeypatch.undo()
    pki.load_authorities(folder)
    if server_is_due(folder):
        renew_server(folder, NAMES)
    pki.load_credentials(folder, "server")
    with_cut()
    assert len(pki.load_authorities(folder)) in {1, 2, 3}


class TestTheServersOwn:
    def test_a_new_one_has_a_new_key_and_the_names_of_the_day(self, folder):
        before, key = server(folder), (folder / "server.key").read_bytes()
        ends = renew_server(folder, ("fed.example", "10.0.0.1"))
        after = server(folder)
        assert after.serial_number != before.serial_number
        assert (folder / "server.key").read_bytes() != key
        assert after.not_valid_after_utc == ends
        assert "fed.example" in str(after.extensions)

    def test_a_young_one_is_left_alone(self, folder):
        assert server_is_due(folder) == ""

    def test_one_that_ends_soon_is_due(self, folder):
        made = pki.issue_server(pki.load_authority(folder), NAMES, days=100)
        pki.save_credentials(folder, "server", made)
        assert "it ends at" in server_is_due(folder)
        renew_server(folder, NAMES)
        assert server_is_due(folder) == ""

    @pytest.mark.parametrize("name", ["server.pem", "server.key"])
    def test_one_of_which_a_half_is_missing_is_due(self, folder, name):
        (folder / name).unlink()
        assert name in server_is_due(folder)

    def test_a_key_of_another_certificate_is_due(self, folder):
        (folder / "server.key").write_bytes(pki.new_key())
        assert "is not the key of the certificate" in server_is_due(folder)

    def test_an_exposed_key_is_for_the_operator_to_look_at(self, folder):
        (folder / "server.key").chmod(0o644)
        with pytest.raises(KeyExposed):
            server_is_due(folder)

    def test_it_is_not_made_anew_each_hour_when_the_authority_itself_ends(self, folder, monkeypatch):
        soon = datetime.now(UTC) + timedelta(days=20)
        made = pki.issue_server(pki.load_authority(folder), NAMES, days=20)
        pki.save_credentials(folder, "server", made)
        monkeypatch.setattr(authorities, "_oldest_end", lambda _: soon)
        assert server_is_due(folder) == ""


def test_a_server_that_runs_sees_what_another_process_did(folder, caplog):
    live = LiveTrust(folder)
    assert len(live.get().authorities) == 1
    made = roll(folder)
    assert live.get().current.pem == made.pem
    whole = (folder / "ca.pem").read_bytes()
    (folder / "ca.pem").write_bytes(b"half of it")
    assert live.get().current.pem == made.pem  # what was known goes on
    assert "could not be read again" in caplog.text
    (folder / "ca.pem").write_bytes(whole)
    assert len(live.get().authorities) == 2
