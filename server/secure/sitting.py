"""The server's part in one sitting: it brings the sites together, passes on what it cannot read, and opens the sum.

Pure: what goes out and what came in are plain data (`fedwon.common.secagg.messages`). Whoever answers with something
that cannot be meant counts as if it had not answered. The order is `circles`, `orders`, `openings`, `masks`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from fedwon.common.errors import NotASum, TooFewUpdates
from fedwon.common.secagg import graph, keys, shamir
from fedwon.common.secagg.graph import FEWEST, FEWEST_COUNTED
from fedwon.common.secagg.masking import Mask, pair_sign
from fedwon.common.secagg.messages import Circle, Keys, MaskOrder, Opening, Revealed, Setup, Shares

logger = logging.getLogger(__name__)

_RANDOM = secrets.SystemRandom()
MOST_TRIES = 1000
"""So many sets of shares are tried for a secret, of which some are false."""


@dataclass(frozen=True)
class Agreed:
    """What sites have agreed on once they have shared: with it a sitting goes on, also in another process.

    Attributes:
        sitting: its name.
        keys: what each site brought.
        around: the neighbours of each site, those that shared.
        thresholds: shares that give a site's secrets back.
        digests: of the seeds of the sites' own masks.
    """

    sitting: str
    keys: Mapping[str, Keys]
    around: Mapping[str, tuple[str, ...]]
    thresholds: Mapping[str, int]
    digests: Mapping[str, bytes]


class Sitting:
    """One use of the protocol, for one sum.

    Args:
        degree: neighbours of a site; None for as many as are safe.
        shuffle: see `graph.neighbours`.

    Attributes:
        name: drawn anew, and never used again.
    """

    def __init__(self, degree: int | None = None, shuffle: graph.Shuffle = graph.RANDOM) -> None:
        self.name = secrets.token_hex(8)
        self._degree, self._shuffle = degree, shuffle
        self._keys: dict[str, Keys] = {}
        self._around: dict[str, tuple[str, ...]] = {}
        self._thresholds: dict[str, int] = {}
        self._digests: dict[str, bytes] = {}
        self._openings: dict[str, Opening] = {}
        self._false: set[str] = set()

    @classmethod
    def of(cls, agreed: Agreed) -> Sitting:
        """Go on with a sitting after `orders`."""
        made = cls()
        made.name, made._keys, made._around = agreed.sitting, dict(agreed.keys), dict(agreed.around)
        made._thresholds, made._digests = dict(agreed.thresholds), dict(agreed.digests)
        return made

    @property
    def agreed(self) -> Agreed:
        """What `of` goes on with."""
        return Agreed(self.name, self._keys, self._around, self._thresholds, self._digests)

    @property
    def setup(self) -> Setup:
        """What every site is asked first."""
        return Setup(self.name)

    def circles(self, answers: Mapping[str, Keys]) -> dict[str, Circle]:
        """Draw the graph among the sites that brought keys; return what each is told, nothing for too few.

        Args:
            answers: to `setup`, by site.
        """
        seen: set[bytes] = set()
        for site, answer in sorted(answers.items()):
            own = {answer.sealing, answer.masking}
            if answer.sitting == self.name and len(own - seen) == 2 and all(map(keys.is_public, own)):
                self._keys[site] = answer
                seen |= own
        if len(self._keys) < FEWEST:
            return {}
        degree = self._degree or graph.enough_neighbours(len(self._keys))
        self._around = graph.neighbours(list(self._keys), degree, self._shuffle)
        self._thresholds = {site: graph.threshold(len(around) + 1) for site, around in self._around.items()}
        return {site: self._circle(site) for site in self._around}

    def _circle(self, site: str) -> Circle:
        around = self._around[site]
        theirs = [self._keys[name] for name in around]
        return Circle(
            self.name,
            self._thresholds[site],
            around,
            tuple(one.sealing for one in theirs),
            tuple(one.masking for one in theirs),
            tuple(one.tag for one in theirs),
        )

    def orders(
        self, answers: Mapping[str, Shares], *, clip_norm: float, largest_weight: float, by_examples: bool
    ) -> dict[str, MaskOrder]:
        """Pass the sealed shares on to those they are for; return what each site is told with its task.

        Who shared nothing is left out, and so is who has too few neighbours left to be made up for.

        Args:
            answers: to `circles`, by site.
            clip_norm: see `MaskOrder`, as the others.
            largest_weight: "
            by_examples: "
        """
        whole = {site: answer for site, answer in answers.items() if self._is_whole(site, answer)}
        left = set(whole)
        fewest = {site: max(needed, FEWEST) for site, needed in self._thresholds.items()}
        while thin := {site for site in left if len(left & {*self._around[site]}) + 1 < fewest[site]}:
            left -= thin
        if len(left) < FEWEST:
            left = set()
        self._around = {site: tuple(name for name in self._around[site] if name in left) for site in sorted(left)}
        self._digests = {site: whole[site].own_mask for site in left}
        sealed = {
            (site, to): box for site in left for to, box in zip(whole[site].neighbours, whole[site].sealed, strict=True)
        }
        return {
            site: MaskOrder(
                self.name,
                around,
                tuple(sealed[name, site] for name in around),
                clip_norm,
                largest_weight,
                by_examples,
                len(left),
            )
            for site, around in self._around.items()
        }

    def _is_whole(self, site: str, answer: Shares) -> bool:
        around = self._around.get(site)
        return (answer.sitting, answer.neighbours) == (self.name, around) and len(answer.sealed) == len(around or ())

    def shortfall(self, counted: Collection[str]) -> str | None:
        """Return why the sum of these sites' updates could not be opened, or None.

        Args:
            counted: the sites whose masked updates are here.
        """
        if len(counted) < FEWEST_COUNTED:
            return f"{len(counted)} masked updates are here, and a sum is of {FEWEST_COUNTED} at least"
        for site, around in self._around.items():
            here = len({*around, site} & {*counted})
            if here < self._thresholds[site] and (site in counted or here):
                needed = self._thresholds[site]
                return f"of the {needed} sites that must help to take a mask of {site} off, {here} are left"
        return None

    def openings(self, counted: Collection[str]) -> dict[str, Opening]:
        """Close the sum; return what each site whose update is in it is asked.

        Args:
            counted: the sites whose masked updates are here.

        Raises:
            TooFewUpdates: it could not be opened.
        """
        if (reason := self.shortfall(counted)) is not None:
            raise TooFewUpdates(f"The sum cannot be opened: {reason}.")
        self._openings = {
            site: Opening(
                self.name,
                tuple(sorted(name for name in (*around, site) if name in counted)),
                tuple(name for name in around if name not in counted),
            )
            for site, around in self._around.items()
            if site in counted
        }
        return self._openings

    def masks(self, answers: Mapping[str, Revealed]) -> list[Mask]:
        """Return the masks to put on the sum of the updates, which take theirs off.

        Args:
            answers: to `openings`, by site.

        Raises:
            TooFewUpdates: too few answers by now.
            NotASum: shares are there and give back something else than what was shared.
        """
        seeds: dict[str, dict[str, bytes]] = {}
        private: dict[str, dict[str, bytes]] = {}
        for site, answer in sorted(answers.items()):
            opening = self._openings.get(site)
            if opening is not None and _answers(answer, opening):
                _add(seeds, site, answer.counted, answer.counted_shares)
                _add(private, site, answer.lost, answer.lost_shares)
        found = [Mask(self._seed(site, seeds.get(site, {})), -1) for site in self._openings]
        for site in sorted({name for opening in self._openings.values() for name in opening.lost}):
            key = self._private_key(site, private.get(site, {}))
            found += [
                Mask(keys.mask_seed(key, self._keys[name].masking, self.name), -pair_sign(name, site))
                for name in self._around[site]
                if name in self._openings
            ]
        return found

    def _seed(self, site: str, shares: Mapping[str, bytes]) -> bytes:
        return self._joined(site, shares, lambda seed: keys.digest_of(seed, self.name) == self._digests[site])

    def _private_key(self, site: str, shares: Mapping[str, bytes]) -> bytes:
        return self._joined(site, shares, lambda key: keys.public_of(key) == self._keys[site].masking)

    def _joined(self, site: str, shares: Mapping[str, bytes], right: Callable[[bytes], bool]) -> bytes:
        """Give a secret of a site back, of the shares of these holders; where some are false, others are tried."""
        needed = self._thresholds[site]
        if len(shares) < needed:
            raise TooFewUpdates(
                f"The sum cannot be opened: {len(shares)} shares are here of {needed} that take a mask of {site} off."
            )
        trusted_first = sorted(shares, key=lambda holder: (holder in self._false, holder))
        for holders in _choices(trusted_first, needed):
            some = [shares[holder] for holder in holders]
            secret = _join(some)
            if secret is not None and right(secret):
                if list(holders) != trusted_first[:needed]:
                    self._find_false(site, shares, some, secret)
                return secret
        raise NotASum(
            f"The mask of site `{site}` cannot be taken off: it, or one that held its shares, gave false ones."
        )

    def _find_false(self, site: str, shares: Mapping[str, bytes], good: Sequence[bytes], secret: bytes) -> None:
        """Remember who gave a share that does not go with good ones: of other secrets theirs are tried last."""
        new = {holder for holder, share in shares.items() if share not in good and holder not in self._false}
        new = {holder for holder in new if _join([*good[1:], shares[holder]]) != secret}
        logger.warning("false shares, as of the mask of %s, came from %s; others were enough", site, sorted(new))
        self._false |= new


def _choices(holders: Sequence[str], needed: int) -> Iterable[Sequence[str]]:
    """Return sets of so many holders to try, the first ones first, no more than `MOST_TRIES`.

    Where there are more, they are drawn: in order, one false share in front would stay in all that are tried.
    """
    yield holders[:needed]
    if math.comb(len(holders), needed) <= MOST_TRIES:
        yield from islice(combinations(holders, needed), 1, None)
    else:
        yield from (_RANDOM.sample(holders, needed) for _ in range(MOST_TRIES - 1))


def _join(shares: Sequence[bytes]) -> bytes | None:
    try:
        return shamir.join(shares)
    except ValueError:
        return None


def _answers(answer: Revealed, opening: Opening) -> bool:
    """Tell whether an answer is to what was asked, and whole."""
    asked = (opening.sitting, opening.counted, opening.lost)
    whole = len(answer.counted_shares) == len(opening.counted) and len(answer.lost_shares) == len(opening.lost)
    return whole and (answer.sitting, answer.counted, answer.lost) == asked


def _add(found: dict[str, dict[str, bytes]], holder: str, names: Sequence[str], shares: Sequence[bytes]) -> None:
    for name, share in zip(names, shares, strict=True):
        found.setdefault(name, {})[holder] = share
