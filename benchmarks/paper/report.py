"""docs/results.md and its curves from the committed results: what was run, what is missing, and what follows.

Every figure on that page comes from the JSON files; a verdict is what the interval of a paired difference allows.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks import batch_one, lines
from benchmarks.paper.curves import learning_curve, svg
from benchmarks.paper.differences import differences
from benchmarks.paper.forms import forms
from benchmarks.paper.partitions import DomainASite, LabelSkew
from benchmarks.paper.protocol import SMALL_BATCH, Protocol
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.published import NOT_COMPARABLE, published_average, published_skew, published_table
from benchmarks.paper.spec import RESULTS
from benchmarks.paper.table_rows import Row, finished, found_rows
from benchmarks.paper.tuning import rows
from benchmarks.paper.verdicts import summary
from fedwon.server.comparison.scoring import METRICS

CURVES = "curves"
_LEFT_OUT = (
    " Each domain in turn is left out of the training and scored. FedBN has no layers for a domain that took no part: "
    "it is served with the mean of the probabilities that its sites' models give."
)
HEAD = """# What has been measured

Made by `python -m benchmarks.paper report` from the JSON files in `benchmarks/results/`.

```console
python -m benchmarks.paper tune --protocol digits     # learning rate and clipping of each row, by validation images
python -m benchmarks.paper run --protocol digits      # what is missing of its table; an interrupted run goes on
python -m benchmarks.paper report                     # this page
python -m benchmarks.paper again --protocol digits    # its runs once more, beside what is kept; as JSON lines
python -m benchmarks.paper evaluate --data DIR        # stored checkpoints on other images: k of n by domain, as JSON
```

Learning rate and clipping of every row were chosen on validation images from one grid for all methods, with a seed of
its own. The grid is climbed from its middle until both neighbours of the best rate are worse. Accuracy is on test
images, in %, mean ± standard deviation over seeds. A difference is paired: same seeds, same test images; its 95 %
interval counts the spread over seeds (Student's t) and over images. A verdict other than "undecided" means that the
interval excludes zero.
"""


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _line(row: Row, plan: Protocol) -> str:
    metric = METRICS[plan.metric]
    head = f"| {row.label} | {row.batch} | {row.settings} | {', '.join(map(str, row.scores))} |"
    if row.diverged:
        return f"{head} diverged with {row.diverged} of {len(row.scores)} seeds |"
    scores = [score for score in row.scores.values() if score is not None]
    cells = [_cell([metric(score[domain]) for score in scores]) for domain in sorted(scores[0])]
    mean = _cell([statistics.mean(metric(site) for site in score.values()) for score in scores])
    return f"{head} {' | '.join(cells)} | **{mean}** | {_beside(plan, row)} |"


def _beside(plan: Protocol, row: Row) -> str:
    """The published average of a row, where the protocol is the paper's main one: a domain a site."""
    if plan.partition != DomainASite():
        return "-"
    return published_average(plan.images, row.variant, row.batch if row.batch <= SMALL_BATCH else None)


def _published(plan: Protocol) -> list[str]:
    """What is published of the protocol, below its table; once for each set."""
    if isinstance(plan.partition, LabelSkew):
        return published_skew(plan.partition.alpha)
    return published_table(plan.images) if plan.main else []


def section(title: str, protocols: Sequence[str], results: Path = RESULTS) -> str:
    """One protocol, or a group of them, as Markdown."""
    plan = PROTOCOLS[protocols[0]]
    wanted = list(rows(protocols[0]))
    found = found_rows(protocols, results)
    text = [f"## {title}", "", f"{_what(plan)}"]
    whole = next((score for row in found for score in row.scores.values() if score is not None), None)
    if found:
        heads = ["method", "batch", "lr", "clipping", "seeds", *sorted(whole or {}), "mean", "published"]
        text += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(_line(row, plan) for row in found)]
        text += ["", *(f"![Learning curves of {name}]({CURVES}/{name}.svg)" for name in protocols)]
    text += differences(plan, found)
    done = {(row.variant, row.batch) for row in found if len(row.scores) == len(plan.seeds)}
    missing = [f"{variant} at {batch}" for variant, batch in wanted if (variant, batch) not in done]
    if missing and plan.absent:
        text += [
            "",
            f"Not run: {plan.images} cannot be had here. `python -m benchmarks.paper fetch --list` says how to.",
        ]
    elif missing:
        text += ["", f"Not run yet with all seeds: {', '.join(missing)}."]
    if known := _published(plan):
        text += ["", *known]
    return "\n".join(text)


def sections() -> dict[str, list[str]]:
    """The protocols of each section of the page, by its title."""
    found: dict[str, list[str]] = {}
    for name, plan in PROTOCOLS.items():
        found.setdefault(plan.group or name, []).append(name)
    return found


def _what(plan: Protocol) -> str:
    model = plan.settings.get("model", {})
    network = f"`{model.get('name', 'digit_cnn')}` at width {model.get('width', 1)}"
    count = plan.settings.get("training", {}).get("epochs", 1)
    epochs = "one local epoch" if count == 1 else f"{count} local epochs"
    metric = "balanced accuracy (mean recall of the classes)" if plan.metric == "balanced" else "accuracy"
    choice = (
        "the last round" if plan.selection == "last" else f"the best by validation of each {plan.test_every}th round"
    )
    tuned = f" Tuned over {plan.tune_rounds} rounds." if not plan.tuned_as else f" Tuned as {plan.tuned_as}."
    cut = f" Smaller than published: {plan.cut}." if plan.cut else ""
    tested = _LEFT_OUT if plan.group else ""
    return (
        f"{plan.images}, {network}, {plan.rounds} rounds of {epochs}; {metric} of {choice}.{_shown(plan)}{tested}"
        f"{tuned}{cut}"
    )


def _shown(plan: Protocol) -> str:
    """How the images are shown to the network, where that is not as they are."""
    varied = plan.settings.get("training", {}).get("augmentation", {})
    turned = varied.get("turn_degrees")
    sides = [
        *(["left to right"] if varied.get("flip_horizontal") else []),
        *(["top to bottom"] if varied.get("flip_vertical") else []),
    ]
    ways = [
        *([f"mirrored {' and '.join(sides)}"] if sides else []),
        *([f"turned by up to {turned:g} degrees"] if turned else []),
    ]
    alone = " Every image is standardized by itself." if plan.settings["images"].get("standardize") == "each" else ""
    return alone + (f" Training images are {' and '.join(ways)} at random." if ways else "")


def curves(protocol: str, results: Path = RESULTS) -> str | None:
    """The learning curves of a protocol's rows as SVG; None if nothing was run."""
    found = {
        f"{variant}, batch {batch}": learning_curve(runs)
        for variant, batch in rows(protocol)
        if (runs := finished(protocol, variant, batch, results))
    }
    return svg(f"Learning curves of {protocol}: validation accuracy by round", found) if found else None


def report(results: Path = RESULTS) -> str:
    """The whole page as Markdown."""
    parts = [
        HEAD + NOT_COMPARABLE,
        summary(results),
        forms(results),
        *(section(title, names, results) for title, names in sections().items()),
    ]
    return "\n\n".join([*parts, batch_one.section().strip(), lines.section().strip()]) + "\n"


def write_page(docs: Path, results: Path = RESULTS) -> None:
    """Write `results.md` and the pictures that it shows.

    Args:
        docs: the folder of the documentation.
        results: the JSON files.
    """
    folder = docs / CURVES
    folder.mkdir(exist_ok=True)
    for protocol in PROTOCOLS:
        if picture := curves(protocol, results):
            (folder / f"{protocol}.svg").write_text(picture, encoding="utf-8")
    (docs / "results.md").write_text(report(results), encoding="utf-8")
