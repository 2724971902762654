"""What follows from the tables: is FedWon ahead of FedAvg and FedBN, set by set?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.paper.comparing import Difference
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.table_rows import Row, best, difference, found_rows

SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Digits-Five": ("digits", "digits_small"),
        "Office-Caltech-10": ("office",),
        "PACS": ("pacs",),
        "magnetic_tile": ("magnetic_tile", "magnetic_tile_each"),
    }
)
"""The protocols of each image set whose sites are its domains, all of them seen."""
RIVALS = ("fedavg", "fedbn")


def points(change: Difference) -> str:
    """The difference, in points."""
    return f"{100 * change.mean:+.1f}"


def interval(change: Difference) -> str:
    """Its interval, in points; a dash where one seed gives none."""
    return f"{100 * change.low:+.1f} to {100 * change.high:+.1f}" if change.seeds > 1 else "-"


def summary(results: Path) -> str:
    """The claim, set by set, and what the intervals allow to say of it, as Markdown."""
    lines, ahead = [], []
    for title, protocols in SETS.items():
        verdicts = [_verdicts(protocol, results) for protocol in protocols]
        lines += [line for protocol, found in zip(protocols, verdicts, strict=True) for line in _lines(protocol, found)]
        if any(len(found) == len(RIVALS) and all(_ahead(found)) for found in verdicts):
            ahead.append(title)
    return "\n".join(
        [
            "## The claim",
            "",
            "FedWon's mean over domains is above FedAvg's and FedBN's, each at its own best batch size and learning",
            "rate: so says the paper. `fedwon` with its own recipe, less:",
            "",
            "| protocol | rival | points | 95 % interval | seeds | fedwon is |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            _conclusion(ahead),
        ]
    )


def _verdicts(protocol: str, results: Path) -> dict[str, tuple[Row, Difference]]:
    plan, found = PROTOCOLS[protocol], found_rows([protocol], results)
    ours = best(found, "fedwon")
    verdicts = {}
    for name in RIVALS:
        rival = best(found, name)
        change = difference(ours, rival, plan.metric) if ours and rival else None
        if rival is not None and change is not None:
            verdicts[name] = (rival, change)
    return verdicts


def _lines(protocol: str, verdicts: Mapping[str, tuple[Row, Difference]]) -> Iterator[str]:
    for name in RIVALS:
        if name in verdicts:
            rival, change = verdicts[name]
            cells = [points(change), interval(change), str(change.seeds), f"**{change.verdict}**"]
            yield f"| {protocol} | {name}, batch {rival.batch} | {' | '.join(cells)} |"
        else:
            yield f"| {protocol} | {name} | not run yet | | | |"


def _ahead(verdicts: Mapping[str, tuple[Row, Difference]]) -> Iterator[bool]:
    return (change.seeds > 1 and change.verdict == "better" for _, change in verdicts.values())


def _conclusion(ahead: list[str]) -> str:
    if len(ahead) == len(SETS):
        return f"**It holds on all {len(SETS)} sets.**"
    where = f"on {len(ahead)} of {len(SETS)} sets ({', '.join(ahead)})" if ahead else f"on none of {len(SETS)} sets"
    return f"**FedWon is ahead of both, with intervals that exclude zero, {where}**; elsewhere that is not shown here."
