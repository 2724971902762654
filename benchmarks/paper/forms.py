"""FedWon's recipe beside its plainer forms on validation images: what the recipe was chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.table_rows import NAMES, row
from benchmarks.paper.tuning import best_score

OURS = "fedwon"
FORMS = ("fedwon_no_constant", "fedwon_constant", "fedwon_paper")


def forms(results: Path) -> str:
    """The best tuning run of each form and its whole runs, protocol by protocol, as Markdown."""
    rows = list(_rows(results))
    return "\n".join(
        [
            "## The recipe on validation images",
            "",
            "Mean over domains on validation images, in %: of each form's best tuning run (seed 101), by which the",
            "recipe was chosen (the one without the ReLU constant came later), and behind the stroke of the whole",
            "runs, mean over their seeds. A point or two is no difference; test images, with intervals, are below.",
            "",
            f"| protocol | batch | {' | '.join(NAMES[form] for form in (OURS, *FORMS))} |",
            "|---|---|" + "---|" * len((OURS, *FORMS)),
            *rows,
        ]
    )


def _rows(results: Path) -> Iterator[str]:
    for protocol, plan in PROTOCOLS.items():
        if plan.tuned_as or OURS not in plan.rows:
            continue
        for batch in plan.rows[OURS]:
            tuned = {form: best_score(protocol, form, batch, results) for form in (OURS, *FORMS)}
            if tuned[OURS] is not None and any(tuned[form] is not None for form in FORMS):
                cells = (
                    f"{_percent(score)} / {_percent(_whole(protocol, form, batch, results))}"
                    for form, score in tuned.items()
                )
                yield f"| {protocol} | {batch} | {' | '.join(cells)} |"


def _whole(protocol: str, form: str, batch: int, results: Path) -> float | None:
    found = row([protocol], form, batch, results)
    return found.validation if found else None


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
