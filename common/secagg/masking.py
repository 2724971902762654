"""Masks: streams of numbers modulo 2**32 that follow from a seed and look like any others to whoever lacks it.

The stream is ChaCha20's with nonce 0: a seed makes one mask and nothing else. It is made block by block, so memory
holds the masked numbers and one block, however many masks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

BLOCK = 2**16
"""Numbers that are made at a time: they fit into a processor's own cache."""
_NONCE = bytes(16)

Words = NDArray[np.uint32]


class Mask(NamedTuple):
    """A mask, and whether it is put on or taken off."""

    seed: bytes
    sign: Literal[1, -1]


def pair_sign(own: str, other: str) -> Literal[1, -1]:
    """Return with which sign a site puts on the mask that it has with another: the two are opposite."""
    return 1 if own < other else -1


def apply_masks(tensors: Sequence[Words], masks: Iterable[Mask]) -> None:
    """Put masks on numbers, in place; the tensors count as one long row.

    Args:
        tensors: contiguous, flat, uint32.
        masks: each runs over all tensors.
    """
    zeros, made = bytes(4 * BLOCK), np.empty(4 * BLOCK, dtype=np.uint8)
    for mask in masks:
        stream = Cipher(ChaCha20(mask.seed, _NONCE), mode=None).encryptor()
        for tensor in tensors:
            for start in range(0, tensor.size, BLOCK):
                block = tensor[start : start + BLOCK]
                room = made[: 4 * block.size]
                stream.update_into(memoryview(zeros)[: room.size], room.data)
                words = room.view("<u4")
                (np.add if mask.sign > 0 else np.subtract)(block, words, out=block)
