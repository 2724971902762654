"""What follows from the tables: is FedWon ahead of FedAvg and FedBN, set by set?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.table_rows import NAMES, Row, best, difference, found_rows
from fedwon.server.comparison.paired import Difference

SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Digits-Five": ("digits", "digits_small", "digits_many"),
        "Office-Caltech-10": ("office",),
        "PACS": ("pacs",),
        "magnetic_tile": ("magnetic_tile", "magnetic_tile_each"),
    }
)
"""The protocols of each image set whose sites are its domains, all of them seen; the first one counts for the set."""
BESIDE = ("cross_device_0.1", "cross_device_0.2", "cross_device_0.5")
"""Protocols with many sites a domain, few of them in a round: told beside the claim, and not counted."""
RIVALS = ("fedavg", "fedbn")
AS_PUBLISHED = ("fedavg_unclipped", "fedbn_unclipped")


def points(change: Difference) -> str:
    """The difference, in points."""
    return f"{100 * change.mean:+.1f}"


def interval(change: Difference) -> str:
    """Its interval, in points; a dash where one seed gives none."""
    return f"{100 * change.low:+.1f} to {100 * change.high:+.1f}" if change.seeds > 1 else "-"


def summary(results: Path) -> str:
    """The claim, set by set, and what the intervals allow to say of it, as Markdown."""
    named = [*(protocol for protocols in SETS.values() for protocol in protocols), *BESIDE]
    found = {protocol: _verdicts(protocol, results) for protocol in named}
    return "\n".join(
        [
            "## The claim",
            "",
            "FedWon's mean over domains is above FedAvg's and FedBN's, each at its own best batch size and learning",
            "rate: so says the paper. `fedwon` with its own recipe, less:",
            "",
            "| protocol | rival | points | 95 % interval | seeds | fedwon is |",
            "|---|---|---|---|---|---|",
            *(line for protocol, verdicts in found.items() for line in _lines(protocol, verdicts)),
            "",
            f"**{_conclusion(found, RIVALS)}**",
            "A set counts as ahead by its first protocol above, and as behind by any of them. Of cross-device runs the",
            "paper claims nothing that we know, and they do not count.",
            "",
            "Adaptive clipping is FedWon's; here every method may be clipped, if that is better on validation images.",
            f"Against FedAvg and FedBN as published, without it: {_conclusion(found, AS_PUBLISHED)}",
        ]
    )


def _verdicts(protocol: str, results: Path) -> dict[str, tuple[Row, Difference]]:
    plan, found = PROTOCOLS[protocol], found_rows([protocol], results)
    ours = best(found, "fedwon")
    verdicts = {}
    for name in (*RIVALS, *AS_PUBLISHED):
        rival = best(found, name)
        change = difference(ours, rival, plan.metric) if ours and rival else None
        if rival is not None and change is not None:
            verdicts[name] = (rival, change)
    return verdicts


def _lines(protocol: str, verdicts: Mapping[str, tuple[Row, Difference]]) -> Iterator[str]:
    for name in (*RIVALS, *AS_PUBLISHED):
        if name in verdicts:
            rival, change = verdicts[name]
            cells = [points(change), interval(change), str(change.seeds), f"**{change.verdict}**"]
            yield f"| {protocol} | {rival.label}, batch {rival.batch} | {' | '.join(cells)} |"
        elif name in PROTOCOLS[protocol].rows:
            yield f"| {protocol} | {NAMES.get(name, name)} | not run yet | | | |"


def _conclusion(found: Mapping[str, Mapping[str, tuple[Row, Difference]]], rivals: Sequence[str]) -> str:
    ahead = [title for title, (counts, *_) in SETS.items() if all(_beaten(found[counts], rival) for rival in rivals)]
    behind = [
        f"{rival} on {title}"
        for title, protocols in SETS.items()
        for rival in rivals
        if any(rival in found[name] and found[name][rival][1].verdict == "worse" for name in protocols)
    ]
    if len(ahead) == len(SETS):
        return f"FedWon is ahead of both on all {len(SETS)} sets, with intervals that exclude zero."
    where = f"on {len(ahead)} of {len(SETS)} sets ({', '.join(ahead)})" if ahead else f"on none of {len(SETS)} sets"
    against = f" It is behind {', '.join(behind)}." if behind else ""
    return f"FedWon is ahead of both, with intervals that exclude zero, {where}.{against}"


def _beaten(verdicts: Mapping[str, tuple[Row, Difference]], rival: str) -> bool:
    return rival in verdicts and verdicts[rival][1].seeds > 1 and verdicts[rival][1].verdict == "better"
