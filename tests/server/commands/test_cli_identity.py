"""The operator's commands about identity, and what `status` says of certificates that end."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from fedwon.common import pki
from fedwon.common.certificates import authority_certificate, certificate_pem, key_pem, subject_name
from fedwon.common.errors import FolderTaken, Refused
from fedwon.server import report
from fedwon.server.auditing import operator, trail
from fedwon.server.identity import sites
from fedwon.server.identity.standing import revoke
from fedwon.server.serving import Home
from fedwon.server.store import now

NAMES = ("127.0.0.1",)


class TestSites:
    def test_without_a_subcommand_it_lists(self, home, typed):
        assert typed("sites") == "no sites yet: fedwon-server enroll SITE\n"
        sites.enrolled(home.store, "line-1", now() + timedelta(days=20))
        assert "line-1" in typed("sites")
        [row] = json.loads(typed("sites", "--json"))["sites"]
        assert (row["site"], row["revoked"], row["reason"]) == ("line-1", None, "")

    @pytest.mark.parametrize("command", [["enroll"], ["sites", "add"]])
    def test_two_commands_add_a_site(self, home, typed, command):
        content = json.loads(typed(*command, "line-1", "--json"))
        assert sites.redeem_token(home.store, content["token"], "key") == "line-1"
        assert content["fingerprint"] == pki.fingerprint(home.authority.pem)
        assert [(line["action"], line["actor"]) for line in trail(home.store)][-1] == ("token made", operator())

    def test_revoking(self, home, typed):
        sites.enrolled(home.store, "line-1", now() + timedelta(days=20))
        assert "is revoked" in typed("sites", "revoke", "line-1", "--reason", "lost")
        shown = typed("sites")
        assert "revoked" in shown.splitlines()[1] + shown.splitlines()[2]
        assert shown.rstrip().endswith(": lost")
        [row] = json.loads(typed("sites", "--json"))["sites"]
        assert (row["reason"], row["revoked"].startswith("20")) == ("lost", True)

    def test_a_site_that_is_none(self, typed):
        with pytest.raises(Refused, match="No site `line-9` has enrolled here"):
            typed("sites", "revoke", "line-9")


def test_the_audit_trail(home, typed):
    home.store.audit("something", "line-1", "in detail", actor="anna")
    home.store.audit("something", "line-2")
    assert [line["subject"] for line in json.loads(typed("audit", "--json"))["audit"]][-2:] == ["line-1", "line-2"]
    [line] = json.loads(typed("audit", "--site", "line-1", "--json"))["audit"]
    assert (line["actor"], line["detail"]) == ("anna", "in detail")
    assert len(json.loads(typed("audit", "--last", "1", "--json"))["audit"]) == 1
    assert "anna" in typed("audit")
    assert typed("audit", "--site", "nobody") == "nothing is in the audit trail about nobody\n"


class TestAuthority:
    def test_roll_and_retire(self, home, typed):
        with pytest.raises(Refused, match="one authority only"):
            typed("authority", "retire")
        sites.enrolled(home.store, "line-1", now() + timedelta(days=20))
        typed("authority", "roll")
        line = json.loads(typed("sites", "add", "line-2", "--json"))
        assert line["fingerprint"] == pki.fingerprint(home.authority.pem)  # of the server's certificate
        with pytest.raises(Refused, match="1 sites have not renewed yet: line-1"):
            typed("authority", "retire")
        assert len(pki.load_authorities(home.folder / "pki")) == 2
        typed("authority", "retire", "--force")
        assert len(pki.load_authorities(home.folder / "pki")) == 1
        done = [(row["action"], row["actor"]) for row in trail(home.store)]
        assert ("authority rolled", operator()) in done
        assert done[-1] == ("authority retired", operator())
        assert trail(home.store)[-1]["detail"].endswith("locked out: line-1")

    def test_the_servers_certificate(self, home, typed):
        before = (home.folder / "pki" / "server.pem").read_bytes()
        typed("certificate", "renew")
        assert (home.folder / "pki" / "server.pem").read_bytes() != before
        assert trail(home.store)[-1]["action"] == "server certificate renewed"


class TestExpiry:
    def test_nothing_ends_soon(self, home, typed):
        sites.enrolled(home.store, "line-1", now() + timedelta(days=8))
        assert report.expiring(home) == json.loads(typed("status", "--json"))["expiring"] == []

    def test_what_ends_soon_is_named_with_what_to_do(self, home, typed):
        folder = home.folder / "pki"
        for site, days in (("soon", 6), ("ended", -2), ("revoked", 3)):
            sites.enrolled(home.store, site, now() + timedelta(days=days))
        revoke(home.store, "revoked")
        authority = pki.load_authority(folder)
        short = pki.Authority(authority_certificate(subject_name("federation", "CA"), authority.key, 80), authority.key)
        pki.save_credentials(folder, "server", pki.issue_server(short, NAMES, days=3))
        found = {(row["kind"], row["name"]): row["days"] for row in json.loads(typed("status", "--json"))["expiring"]}
        mark = pki.fingerprint(short.pem)[:16]
        assert found == {
            ("site", "soon"): pytest.approx(6, abs=0.1),
            ("site", "ended"): pytest.approx(-2, abs=0.1),
            ("server", "127.0.0.1"): pytest.approx(3, abs=0.1),
            ("authority", mark): pytest.approx(80, abs=0.1),
        }
        said = typed("status")
        assert "the certificate of site soon ends in 6 days" in said
        assert "the certificate of site ended ended 2 days ago" in said
        assert "fedwon-server certificate renew --dir" in said
        assert "fedwon-server authority roll --dir" in said

    def test_files_that_cannot_be_read_do_not_hide_the_rest(self, home):
        sites.enrolled(home.store, "soon", now() + timedelta(days=6))
        (home.folder / "pki" / "server.pem").unlink()
        assert [row["name"] for row in report.expiring(home)] == ["soon"]


class TestInit:
    def test_what_died_half_way_is_gone_on_with(self, home, tmp_path):
        (home.folder / "server.yaml").unlink()
        again = Home.create(home.folder, home.config)
        assert again.authority.pem == home.authority.pem
        again.store.close()

    def test_with_the_authority_of_another_federation(self, home):
        (home.folder / "server.yaml").unlink()
        with pytest.raises(FolderTaken, match="holds the authority of federation federation, not of other"):
            Home.create(home.folder, home.config.model_copy(update={"federation": "other"}))

    def test_a_key_without_its_certificate(self, tmp_path, home):
        folder = tmp_path / "half" / "pki"
        folder.mkdir(parents=True)
        (folder / "ca.key").write_bytes(key_pem(home.authority.key))
        (folder / "ca.key").chmod(0o600)
        made = Home.create(tmp_path / "half", home.config)
        assert made.authority.pem != certificate_pem(home.authority.certificate)
        made.store.close()
        assert Path(tmp_path / "half" / "server.yaml").exists()
