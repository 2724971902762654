"""Nothing secret in what server and sites write while they work, at the most talkative level."""

from __future__ import annotations

import json

from tests.e2e.fleet import command, images


def lines_of(key: str) -> list[str]:
    """The lines of a PEM file that are the key itself."""
    return [line for line in key.splitlines() if line and "-----" not in line]


def test_tokens_and_keys_are_in_no_log(fleet):
    fleet.site("metal")
    server = fleet.spawn("fedwon-server", "--log-level", "debug", "start", "--dir", fleet.dir, log="server")
    server.wait_says("listening on")
    made = json.loads(command("fedwon-server", "enroll", "paper", "--dir", fleet.dir, "--json").stdout)
    data = images(fleet.folder / "paper.npz")
    secret = ("--fingerprint", made["fingerprint"], "--token", made["token"])
    join = ("join", fleet.config.enrolment, *secret, "--data", data, "--dir", fleet.folder / "paper", "--threads", "1")
    joined = command("fedwon-client", "--log-level", "debug", *join)
    assert joined.returncode == 0, joined.stderr
    wrong = ("join", fleet.config.enrolment, *secret, "--data", data, "--dir", fleet.folder / "again")
    refused = command("fedwon-client", "--log-level", "debug", *wrong)
    assert refused.returncode != 0  # a token that was used: the error does not repeat it
    sites = [
        fleet.spawn(
            *("fedwon-client", "--log-level", "debug", "start", "--dir", fleet.folder / name, "--until-finished"),
            log=f"site-{name}",
        )
        for name in ("metal", "paper")
    ]
    server.end()
    for site in sites:
        site.end()
    keys = [path for folder in (fleet.dir, *(fleet.folder / name for name in ("metal", "paper")))
            for path in folder.rglob("*key*") if path.is_file()]  # fmt: skip
    assert len(keys) >= 4  # of the authority, the server and both sites
    secrets = [made["token"], *(line for path in keys for line in lines_of(path.read_text()))]
    written = [joined.stdout, joined.stderr, refused.stdout, refused.stderr]
    written += [path.read_text(errors="replace") for path in fleet.folder.glob("*.log")]
    written += [path.read_text() for path in fleet.dir.rglob("*.json")]
    assert any("debug" in text.lower() for text in written)
    for text in written:
        assert not [secret for secret in secrets if secret in text]
    assert made["token"].encode() not in b"".join(path.read_bytes() for path in fleet.dir.glob("fedwon.db*"))
