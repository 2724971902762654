"""Every decoder of bytes that somebody else made, each as one function of bytes.

One list, used twice: `test_decoders.py` feeds it from hypothesis and from the kept corpus at every test run, and
`python -m tests.fuzz` (`make fuzz`) drives it by coverage with atheris for as long as one likes. A decoder may return
or raise an error of our own tree; anything else, and memory beyond `MOST_BYTES`, is a finding. A finding's input goes
into `corpus/<target>/` and stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedwon.common.errors import FedwonError
from tests.fuzz import files, messages, sittings, texts

CORPUS = Path(__file__).parent / "corpus"
LARGEST_INPUT = 4096
"""Bytes of an input: what a decoder does wrong it does with few."""
MOST_BYTES = 64 * 2**20
"""Memory that one such input may make a decoder allocate (measured with tracemalloc, which sees Python and NumPy)."""


@dataclass(frozen=True)
class Target:
    """A decoder.

    Attributes:
        decode: what is fuzzed.
        seeds: makes valid inputs, from which fuzzing starts.
    """

    name: str
    decode: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]

    def __call__(self, data: bytes) -> bool:
        """Decode; return whether it was taken, and let nothing but our own errors pass for a refusal."""
        try:
            self.decode(data)
        except FedwonError:
            return False
        return True

    def kept(self) -> list[Path]:
        return sorted((CORPUS / self.name).glob("*"))


TARGETS: Mapping[str, Target] = {
    name: Target(name, decode, seeds)
    for part in (files, messages, sittings, texts)
    for name, (decode, seeds) in part.DECODERS.items()
}
