"""Secrets are looked up by their digest or compared in constant time; nowhere does `==` meet one."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest
from sqlalchemy import event

from fedwon.common.errors import TokenUsed
from fedwon.server.identity import sites
from fedwon.server.page import logins, password
from fedwon.server.store import Store

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"token|password|secret|csrf|cookie", re.IGNORECASE)
NO_SECRET = {
    ("client/secure.py", "len(secret) < LEAST_SECRET"),  # at the site itself, of its own file
    ("common/secagg/shamir.py", "len(secret) != SECRET_BYTES"),
    ("common/secagg/shamir.py", "secret >= 2 ** (8 * SECRET_BYTES)"),  # whether shares have a secret at all
    ("server/secure/sitting.py", "_join([*good[1:], shares[holder]]) != secret"),  # both of shares that it has in hand
    ("server/page/logins.py", "session.password != stamp(self._pki / NAME)"),  # time and size of the password's file
    ("server/page/password.py", "SHORTEST <= len(password) <= LONGEST"),  # a new one, of who types it
    ("server/page/password.py", "len(password) > LONGEST"),
    ("server/identity/sites.py", "Token.digest == token_digest(token)"),  # digests, in the database
    ("server/identity/sites.py", "Token.expires >= now()"),
    ("server/identity/standing.py", "CertificateRow.token == token"),  # digests
    ("server/identity/standing.py", "Token.site == site"),
    ("server/identity/standing.py", "Token.expires > moment"),
}
"""What is compared there is no secret."""


def comparisons() -> list[tuple[str, str]]:
    """Comparisons in which a name that may hold a secret stands, with the file."""
    found = []
    for package in ("client", "common", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" in path.name:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
                    sides = [node.left, *node.comparators]
                    if any(SECRET.search(ast.unparse(side)) for side in sides if not isinstance(side, ast.Constant)):
                        found.append((path.relative_to(ROOT).as_posix(), ast.unparse(node)))
    return found


def test_no_secret_is_compared_by_its_letters():
    assert set(comparisons()) == NO_SECRET


def test_forms_and_passwords_are_compared_in_constant_time():
    actions = (ROOT / "server" / "page" / "actions.py").read_text()
    assert "hmac.compare_digest(form.get('csrf', '')" in ast.unparse(ast.parse(actions))
    assert "PasswordHasher" in Path(password.__file__).read_text()  # argon2 compares what it has derived


def test_a_join_token_reaches_the_database_as_its_digest_only(tmp_path):
    store, said = Store(tmp_path / "fedwon.db"), []
    event.listen(store.engine, "before_cursor_execute", lambda *told: said.append(repr(told[2:4])))
    token = sites.make_token(store, "line-1", actor="test")
    guess = token[:-1] + ("a" if token[-1] != "a" else "b")
    for presented in (token, guess):
        sites.token_counts(store, presented, "key")
        sites.site_of_token(store, presented)
    assert sites.redeem_token(store, token, "key") == "line-1"
    with pytest.raises(TokenUsed):
        sites.redeem_token(store, guess, "key")
    assert any(hashlib.sha256(token.encode()).hexdigest() in text for text in said)
    assert not [text for text in said if token in text or guess in text]
    store.close()


def test_a_login_is_found_by_the_digest_of_its_cookie():
    assert logins._digest("token") == hashlib.sha256(b"token").hexdigest()
    text = ast.unparse(ast.parse(Path(logins.__file__).read_text()))
    assert "self._sessions.get(_digest(token))" in text
