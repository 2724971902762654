"""One row of a table against the others: each at its own best batch size, and all at the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.paper.protocol import Protocol
from benchmarks.paper.table_rows import Row, best, difference
from benchmarks.paper.verdicts import interval, points

STAND_IN = "fedwon_constant"
"""The form of FedWon that is compared at a batch size at which the recipe was not run."""
_HEAD = "| points | 95 % interval | seeds |"


def differences(plan: Protocol, found: Sequence[Row]) -> list[str]:
    """What a protocol's table says of its own method, as lines of Markdown.

    Args:
        plan: the protocol; `ours` is the row that the others are compared with.
        found: the rows that have results.

    Returns:
        Up to two tables: each method at its best batch size by validation, and, for the pairs that are not in the
        first, the methods that were run at the same batch size. Empty if there is nothing to compare.
    """
    pairs = _at_their_best(plan, found)
    same = [pair for pair in _at_the_same(plan, found) if pair not in pairs]
    text: list[str] = []
    if lines := [_at_best_line(pair, plan) for pair in pairs]:
        text += [
            "",
            f"`{plan.ours}` at its best batch size by validation ({pairs[0][0].batch}), less:",
            "",
            f"| method {_HEAD} {plan.ours} is |",
            "|---|---|---|---|---|",
            *lines,
        ]
    if same:
        text += [
            "",
            "At the same batch size, where that is another pair:",
            "",
            f"| batch | method | less {_HEAD} the first is |",
            "|---|---|---|---|---|---|---|",
            *(_same_batch_line(pair, plan) for pair in same),
        ]
    return text


def _at_their_best(plan: Protocol, found: Sequence[Row]) -> list[tuple[Row, Row]]:
    ours = best(found, plan.ours)
    others = (best(found, variant) for variant in plan.rows if variant != plan.ours)
    pairs = [(ours, other) for other in others if ours is not None and other is not None]
    return [(mine, other) for mine, other in pairs if difference(mine, other, plan.metric)]


def _at_the_same(plan: Protocol, found: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    for batch in sorted({row.batch for row in found}):
        rows = {row.variant: row for row in found if row.batch == batch}
        ours = rows.get(plan.ours) or rows.get(STAND_IN)
        if ours is not None:
            yield from ((ours, row) for row in rows.values() if row is not ours)


def _at_best_line(pair: tuple[Row, Row], plan: Protocol) -> str:
    return f"| {pair[1].label}, batch {pair[1].batch} | {_cells(pair, plan)} |"


def _same_batch_line(pair: tuple[Row, Row], plan: Protocol) -> str:
    return f"| {pair[0].batch} | {pair[0].label} | {pair[1].label} | {_cells(pair, plan)} |"


def _cells(pair: tuple[Row, Row], plan: Protocol) -> str:
    """Difference, interval, seeds, verdict; none of them where a seed diverged: those that did not would flatter."""
    for row in pair:
        if row.diverged:
            return f"{row.label} diverged with {row.diverged} of {len(row.scores)} seeds | - | - | -"
    change = difference(*pair, plan.metric)
    if change is None:
        return "no seed in common | - | - | -"
    return f"{points(change)} | {interval(change)} | {change.seeds} | {change.verdict}"
