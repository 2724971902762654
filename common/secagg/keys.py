"""What two sites agree on behind the server's back: a seed for their masks, and a key for what they send each other.

X25519 for the agreement, HKDF-SHA256 for what is made of it, ChaCha20-Poly1305 for the sealed shares: all from
`cryptography`. Each sitting has its own keys, and each of the two directions between two sites its own.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12


def new_key() -> bytes:
    """Draw a private key."""
    return secrets.token_bytes(KEY_BYTES)


def public_of(key: bytes) -> bytes:
    """Return the public key that belongs to a private one."""
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def _agreed(key: bytes, other: bytes, sitting: str, what: str) -> bytes:
    """Agree with whoever has the private key of `other`.

    Raises:
        ValueError: `other` is no public key that anybody has the private key of.
    """
    shared = X25519PrivateKey.from_private_bytes(key).exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(SHA256(), KEY_BYTES, salt=sitting.encode(), info=f"fedwon {what}".encode()).derive(shared)


def mask_seed(key: bytes, other: bytes, sitting: str) -> bytes:
    """Return the seed of the mask between two sites; both get the same.

    Args:
        key: one's private key for masks.
        other: the other's public one.
        sitting: where it holds.

    Raises:
        ValueError: `other` is no public key.
    """
    return _agreed(key, other, sitting, "mask")


def seal(content: bytes, key: bytes, other: bytes, *, sitting: str, way: tuple[str, str]) -> bytes:
    """Seal something for another site.

    Args:
        content: what only that site may read.
        key: one's own private key.
        other: the other's public one.
        sitting: where it holds.
        way: names of the sites, from whom and to whom.

    Raises:
        ValueError: `other` is no public key.
    """
    nonce, about = secrets.token_bytes(_NONCE_BYTES), _way(way)
    return nonce + ChaCha20Poly1305(_agreed(key, other, sitting, about)).encrypt(nonce, content, about.encode())


def unseal(sealed: bytes, key: bytes, other: bytes, *, sitting: str, way: tuple[str, str]) -> bytes:
    """Open what another site sealed; the arguments are those of `seal`, seen from here.

    Raises:
        ValueError: it was not sealed by that site for this one in this sitting, or was changed.
    """
    about = _way(way)
    cipher = ChaCha20Poly1305(_agreed(key, other, sitting, about))
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
    except InvalidTag:
        raise ValueError("it was sealed for another, or was changed") from None


def _way(way: tuple[str, str]) -> str:
    return f"from {way[0]} to {way[1]}"  # names hold no space


def digest_of(seed: bytes, sitting: str) -> bytes:
    """Return by what a seed is known before it is revealed."""
    return hashlib.sha256(b"fedwon own mask " + sitting.encode() + seed).digest()


def tag_of(secret: bytes, sitting: str, site: str, *public: bytes) -> bytes:
    """Return what proves that keys are of a site that knows the circle's secret, which the server does not.

    Args:
        secret: the circle's.
        sitting: where the keys hold.
        site: whose they are.
        public: the keys.
    """
    key = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"fedwon circle").derive(secret)
    return hmac.new(key, b"".join([f"{sitting} {site} ".encode(), *public]), hashlib.sha256).digest()


def same(left: bytes, right: bytes) -> bool:
    """Compare without telling by the time where they differ."""
    return hmac.compare_digest(left, right)


def is_public(key: bytes) -> bool:
    """Tell whether a public key is one with which a secret can be agreed on."""
    try:
        _agreed(new_key(), key, "", "trial")
    except ValueError:
        return False
    return True
