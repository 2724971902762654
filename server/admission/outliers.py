"""Rules that compare the updates of a round with one another, and with those of the rounds before.

A norm or a direction means nothing by itself: what is far depends on network, rate and data. What the others do tells,
as long as most of them mean well.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord

from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.admission.rules import Past, Refusal
from fedwon.server.aggregation.differences import Change, cosines

FEWEST_SITES = 3
"""Of fewer, nobody can tell which one is the odd one out."""
MOST_FOR_IMAGES = 10.0
"""So many times the limit is granted at most to a site that declares more images than others."""
FEWEST_ROUNDS = 3
"""Of fewer of its own updates, a site's usual norm is not known."""


@dataclass(frozen=True)
class Candidate:
    """An update that has passed by itself.

    Attributes:
        site: whose it is.
        examples: training images that it declares.
        change: its tensors, and those that it started from.
        norm: of the difference.
    """

    site: str
    examples: float
    change: Change
    norm: float


def measured(candidates: Sequence[Candidate], past: Sequence[Past]) -> list[Past]:
    """Return what an update is compared with: this round's and those of the rounds before whose norm is known."""
    present = [Past(one.site, 0, one.examples, one.norm, "") for one in candidates]
    return [one for one in (*present, *past) if one.norm is not None and not math.isnan(one.norm)]


def enough_sites(reference: Sequence[Past]) -> bool:
    """Tell whether these are of so many sites that the odd one out can be told."""
    return len({one.site for one in reference}) >= FEWEST_SITES


def usual(values: Sequence[float]) -> float:
    """Return the median; where most are zero, that of the others: sites that are idle hide nobody."""
    return statistics.median(values) or statistics.median([value for value in values if value] or [0.0])


def refuse_norm(one: Candidate, reference: Sequence[Past], most: float) -> str | None:
    """Look at how far an update moves the model beside all the others.

    A site with more images takes more steps and moves further: the limit grows with the square root of its share, up to
    ten times.

    Args:
        one: the update.
        reference: this round's updates and those of the rounds before, its own among them: see `measured`.
        most: so many times the median are allowed.
    """
    if not enough_sites(reference):
        return None
    median = usual([past.norm or 0.0 for past in reference])
    share = one.examples / statistics.median(past.examples for past in reference)
    limit = most * median * min(max(1.0, math.sqrt(share)), MOST_FOR_IMAGES)
    if not median or one.norm <= limit:
        return None
    return (
        f"it moves the model by {one.norm:.3g}; the median of {len({past.site for past in reference})} sites is "
        f"{median:.3g}, and at most {limit:.3g} is allowed (`run.admission.norm`)"
    )


def refuse_own_norm(one: Candidate, past: Sequence[Past], most: float) -> str | None:
    """Look at how far an update moves the model beside the site's own of the rounds before."""
    norms = [update.norm for update in past if update.site == one.site and update.norm is not None]
    if len(norms) < FEWEST_ROUNDS:
        return None
    median = usual(norms)
    if not median or one.norm <= most * median:
        return None
    return (
        f"it moves the model by {one.norm:.3g}; in its last {len(norms)} rounds the site moved it by {median:.3g}, and "
        f"`run.admission.own_norm` allows {most:g} times that"
    )


def refuse_cosine(cosine: float, least: float) -> str | None:
    """Look at where an update moves the model, beside the mean direction of the round's others."""
    if cosine >= least:
        return None
    return (
        f"it moves the model against the others: the cosine to their mean direction is {cosine:.2f}, and "
        f"`run.admission.cosine` asks for {least:g}"
    )


def refuse_outliers(
    candidates: Sequence[Candidate], past: Sequence[Past], rules: AdmissionConfig
) -> dict[str, Refusal]:
    """Compare the updates of a round; return those that do not count, by site.

    Directions are compared among those whose norm passes.

    Args:
        candidates: updates that have passed by themselves.
        past: the updates that counted in the rounds before.
        rules: which rules are on.
    """
    refused = _by_norm(candidates, past, rules)
    left = [one for one in candidates if one.site not in refused]
    if rules.cosine is not None and len(left) >= rules.cosine_sites:
        found = cosines([one.change for one in left], [one.norm for one in left])
        for one, cosine in zip(left, found, strict=True):
            if (reason := refuse_cosine(cosine, rules.cosine)) is not None:
                refused[one.site] = Refusal("cosine", reason)
    return refused


def _by_norm(candidates: Sequence[Candidate], past: Sequence[Past], rules: AdmissionConfig) -> dict[str, Refusal]:
    reference = measured(candidates, past)
    refused: dict[str, Refusal] = {}
    for one in candidates:
        reason = None if rules.norm is None else refuse_norm(one, reference, rules.norm)
        own = None if rules.own_norm is None else refuse_own_norm(one, past, rules.own_norm)
        if reason is not None:
            refused[one.site] = Refusal("norm", reason)
        elif own is not None:
            refused[one.site] = Refusal("own_norm", own)
    return refused


def start_of(update: ArrayRecord, model: ArrayRecord) -> ArrayRecord:
    """Return of the model that an update started from what the update has: some layers may stay at the site."""
    return ArrayRecord({name: model[name] for name in update})
