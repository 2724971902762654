"""How hard an update may pull at the mean: what it weighs, times how far it moves the model.

What a site says of its images buys it weight and distance, and nobody but the site can count them. One by one both stay
within a limit; together they would be the product of the two. So an update that pulls more than `run.admission.norm`
times (or `run.aggregation.weight_cap` times, if that is more) as hard as the median update is not refused, for its site
may really have that many images, but weighs less: as much as makes its pull the limit. Whoever lies in survey and count
can then bend the model no further than whoever says the truth and moves it by the limit of the norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedwon.common.update_settings import AdmissionConfig, AggregationConfig
from fedwon.server.admission.outliers import Candidate, enough_sites, measured, usual
from fedwon.server.admission.rules import Past
from fedwon.server.aggregation.averaging import most_weight


class HeldBack(NamedTuple):
    """An update that weighs less than its images would make it.

    Attributes:
        portion: of its weight that counts, above 0 and below 1.
        reason: why, in words.
    """

    portion: float
    reason: str


def held_back(
    candidates: Sequence[Candidate], past: Sequence[Past], rules: AdmissionConfig, weighing: AggregationConfig
) -> Mapping[str, HeldBack]:
    """Return by site which updates of a round pull too hard; none where fewer than three sites can be compared.

    Args:
        candidates: the updates that count.
        past: the updates that counted in the rounds before.
        rules: `norm` of them is the limit, or `weight_cap` where that is more; without it, nothing is held back.
        weighing: how the updates are weighed against each other.
    """
    reference = measured(candidates, past)
    if rules.norm is None or not candidates or not enough_sites(reference):
        return {}
    alike = weighing.weights == "uniform"
    most = most_weight([1.0 if alike else one.examples for one in candidates], weighing.weight_cap)

    def _pull(one: Candidate | Past) -> float:
        return (1.0 if alike else min(one.examples, most)) * (one.norm or 0.0)

    # whoever lets sites weigh more lets them pull more: one that goes as far as the others always counts in full
    times = rules.norm if alike else max(rules.norm, weighing.weight_cap)
    limit = times * usual([_pull(one) for one in reference])
    return {one.site: _lowered(_pull(one), limit, times) for one in candidates if _pull(one) > limit > 0}


def _lowered(pull: float, limit: float, most: float) -> HeldBack:
    portion, times = limit / pull, most * pull / limit
    return HeldBack(
        portion,
        f"it pulls the model {times:.3g} times as hard as the median update (its weight times how far it moves the "
        f"model), and {most:g} times is allowed (`run.admission.norm`): {portion:.2g} of its weight counts",
    )
