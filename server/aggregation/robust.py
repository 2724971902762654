"""The next global model by the run's rule: the mean, or one that a few hostile updates cannot move far.

All rules have the interface of `aggregation.average`: updates on disk in, a record out, tensor by tensor, in the order
of the sites' names, the same bits whatever order they came in. docs/admission.md says what each is for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ArrayRecord

from fedwon.common.update_settings import AggregationConfig
from fedwon.server.aggregation.averaging import Update, shares
from fedwon.server.aggregation.averaging import average as mean
from fedwon.server.aggregation.column_rules import by_column, closest_to_median, median, trimmed_mean
from fedwon.server.aggregation.differences import Change, norm
from fedwon.server.aggregation.krum import choose_nearest
from fedwon.server.aggregation.shortening import shortened_mean

Types = Mapping[str, str]


def aggregate(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    """Make the next global model of a round's updates.

    Args:
        updates: the round's; all have the names and shapes of the first.
        starts: of the model that each started from, what the update has.
        rules: `run.aggregation`.
        types: what each floating-point tensor of the result is rounded to, by name.

    Raises:
        ValueError: there is nothing to average, or fewer updates than the rule needs.
    """
    if len(updates) < rules.fewest:
        raise ValueError(f"`{rules.rule}` needs {rules.fewest} updates, and there are {len(updates)}")
    pairs = sorted(zip(updates, starts, strict=True), key=lambda pair: pair[0].site)
    return _RULES[rules.rule]([update for update, _ in pairs], [start for _, start in pairs], rules, types)


def _mean(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    del starts
    return mean(updates, rules.weights, rules.weight_cap, rules.staleness, element_types=types)


def _median(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    del starts, rules
    return by_column(updates, median, dict(types))


def _trimmed_mean(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    del starts
    return by_column(updates, trimmed_mean(rules.trim), dict(types))


def _krum(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    count = 1 if rules.rule == "krum" else rules.selected or len(updates) - rules.hostile
    return _mean(_nearest(updates, rules.hostile, count), starts, rules, types)


def _bulyan(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    del starts
    chosen = _nearest(updates, rules.hostile, len(updates) - 2 * rules.hostile)
    return by_column(chosen, closest_to_median(rules.hostile), dict(types))


def _nearest(updates: Sequence[Update], hostile: int, count: int) -> list[Update]:
    places = choose_nearest([update.record for update in updates], hostile, count)
    return [updates[place] for place in places]


def _norm_clipping(
    updates: Sequence[Update], starts: Sequence[ArrayRecord], rules: AggregationConfig, types: Types
) -> ArrayRecord:
    """Shorten each difference to a norm, and average; where none is too long the result is the mean's, bit for bit."""
    norms = [norm(Change(update.record, start)) for update, start in zip(updates, starts, strict=True)]
    finite = [length for length in norms if math.isfinite(length)]
    limit = rules.clip_norm if rules.clip_norm is not None else statistics.median(finite or [0.0])
    factors = [1.0 if length <= limit else limit / length if math.isfinite(length) else 0.0 for length in norms]
    if min(factors) == 1.0:
        return _mean(updates, starts, rules, types)
    portions = shares(updates, rules.weights, rules.weight_cap, rules.staleness)
    return shortened_mean(updates, starts, portions, factors, types)


_RULES: Mapping[str, Callable[[Sequence[Update], Sequence[ArrayRecord], AggregationConfig, Types], ArrayRecord]] = {
    "mean": _mean,
    "median": _median,
    "trimmed_mean": _trimmed_mean,
    "krum": _krum,
    "multi_krum": _krum,
    "bulyan": _bulyan,
    "norm_clipping": _norm_clipping,
}
