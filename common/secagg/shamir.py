"""Secrets in shares: any `threshold` of them give the secret back, and fewer say nothing about it.

Source: Shamir 1979, "How to share a secret": a polynomial of degree threshold - 1 with random coefficients over a prime
field, whose value at 0 is the secret; a share is its value at another place. The field is that of the smallest prime
above 2**256, so that any 32 bytes are one of its elements.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

PRIME = 2**256 + 297
SECRET_BYTES = 32
_PLACE_BYTES, _VALUE_BYTES = 2, 33
SHARE_BYTES = _PLACE_BYTES + _VALUE_BYTES
MOST_HOLDERS = 2 ** (8 * _PLACE_BYTES) - 1


def split(
    secret: bytes, holders: int, threshold: int, draw: Callable[[int], int] = secrets.randbelow
) -> tuple[bytes, ...]:
    """Share a secret out.

    Args:
        secret: `SECRET_BYTES` bytes.
        holders: shares to make.
        threshold: so many of them give it back.
        draw: returns a random number from 0 to below its argument.

    Returns:
        Shares of `SHARE_BYTES` bytes: their place, counted from 1, and the value there, both big-endian.

    Raises:
        ValueError: the secret has another length, or there are not that many shares.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= holders <= MOST_HOLDERS:
        raise ValueError(f"{threshold} of {holders} shares cannot give a secret back")
    coefficients = [int.from_bytes(secret, "big"), *(draw(PRIME) for _ in range(threshold - 1))]
    return tuple(_share(place, _value_at(coefficients, place)) for place in range(1, holders + 1))


def _value_at(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):  # Horner's scheme
        value = (value * place + coefficient) % PRIME
    return value


def _share(place: int, value: int) -> bytes:
    return place.to_bytes(_PLACE_BYTES, "big") + value.to_bytes(_VALUE_BYTES, "big")


def join(shares: Sequence[bytes]) -> bytes:
    """Give a secret back of exactly as many shares as it takes.

    Fewer, or shares that somebody changed, give something else, which nothing here can tell.

    Raises:
        ValueError: they are no shares, two have one place, or their secret cannot have been one.
    """
    points = [_point(share) for share in shares]
    places = [place for place, _ in points]
    if not points or len(set(places)) < len(places):
        raise ValueError("a secret takes shares of different places")
    secret = sum(value * _weight(place, places) for place, value in points) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("these shares have no secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def _point(share: bytes) -> tuple[int, int]:
    place, value = int.from_bytes(share[:_PLACE_BYTES], "big"), int.from_bytes(share[_PLACE_BYTES:], "big")
    if len(share) != SHARE_BYTES or place == 0 or value >= PRIME:
        raise ValueError("this is no share")
    return place, value


def _weight(place: int, places: Sequence[int]) -> int:
    """Return Lagrange's factor at 0 of the value at a place."""
    above = below = 1
    for other in places:
        if other != place:
            above, below = above * other % PRIME, below * (other - place) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
