"""FedWon's recipe beside its plainer forms on validation images: what the recipe was chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.table_rows import NAMES
from benchmarks.paper.tuning import best_score

OURS = "fedwon"
FORMS = ("fedwon_constant", "fedwon_paper")


def forms(results: Path) -> str:
    """The best tuning run of each form, protocol by protocol, as Markdown."""
    rows = list(_rows(results))
    return "\n".join(
        [
            "## The recipe on validation images",
            "",
            "The best tuning run of each form of FedWon (seed 101): mean over domains on validation images, in %. With",
            "one seed a point or two is no difference; test images, with intervals, are below.",
            "",
            f"| protocol | batch | {' | '.join(NAMES[form] for form in (OURS, *FORMS))} |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _rows(results: Path) -> Iterator[str]:
    for protocol, plan in PROTOCOLS.items():
        if plan.tuned_as or OURS not in plan.rows:
            continue
        for batch in plan.rows[OURS]:
            scores = {form: best_score(protocol, form, batch, results) for form in (OURS, *FORMS)}
            if scores[OURS] is not None and any(scores[form] is not None for form in FORMS):
                cells = ("-" if score is None else f"{100 * score:.1f}" for score in scores.values())
                yield f"| {protocol} | {batch} | {' | '.join(cells)} |"
