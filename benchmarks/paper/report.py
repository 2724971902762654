"""docs/results.md and its curves from the committed results: what was run, what is missing, and what follows.

Every figure on that page comes from the JSON files; a verdict is what the interval of a paired difference allows.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import batch_one, lines
from benchmarks.paper.comparing import Scores, paired
from benchmarks.paper.curves import learning_curve, svg
from benchmarks.paper.protocols import PROTOCOLS, Protocol
from benchmarks.paper.published import NOT_COMPARABLE, published
from benchmarks.paper.running import RESULTS, Spec, result_path
from benchmarks.paper.scoring import METRICS, by_domain
from benchmarks.paper.tuning import chosen, mean_score, rows

CURVES = "curves"
HEAD = """# What has been measured

Made by `python -m benchmarks.paper report` from the JSON files in `benchmarks/results/`.

The paper's comparisons, rerun with `python -m benchmarks.paper tune` and `run`. Learning rate and clipping of every
row were chosen on validation images from one grid for all methods, with a seed of its own. Accuracy is on test
images, in %, mean ± standard deviation over seeds. A difference is paired: same seeds, same test images; its 95 %
interval counts the spread over seeds (Student's t) and over images. A verdict other than "undecided" means that the
interval excludes zero.
"""
NAMES = {
    "fedwon": "fedwon",
    "fedwon_constant": "fedwon (listing and ReLU constant)",
    "fedwon_paper": "fedwon (the paper's listing)",
}

Runs = list[dict[str, Any]]


def finished(protocol: str, variant: str, batch: int, results: Path) -> Runs:
    """The results of one row, by seed, as far as they are there."""
    settings = chosen(protocol, variant, batch, results)
    if settings is None:
        return []
    paths = [
        result_path(Spec(protocol, variant, batch, *settings, seed), results) for seed in PROTOCOLS[protocol].seeds
    ]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def reported_round(result: Mapping[str, Any], plan: Protocol) -> str | None:
    """The round whose model is reported: the last, or the best on validation images; None if the run diverged."""
    if result["failed"] or not result["scores"]:
        return None
    if plan.selection == "last":
        return str(max(result["scores"], key=int))
    return str(max(result["scores"], key=lambda number: mean_score(dict(result), plan, number, "validation")))


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        variant: a key of `VARIANTS`.
        batch: images a step.
        settings: learning rate and clipping, in words.
        scores: test counts by domain, by seed; None where the run diverged.
        validation: mean over seeds of the reported rounds' score on validation images; None if one diverged.
    """

    variant: str
    batch: int
    settings: str
    scores: Mapping[int, Scores | None]
    validation: float | None

    @property
    def label(self) -> str:
        """What the table calls it."""
        return NAMES.get(self.variant, self.variant)


def test_scores(result: Mapping[str, Any], plan: Protocol) -> dict[str, Any] | None:
    """Test counts by domain of the reported round; with an unseen domain, of that alone."""
    number = reported_round(result, plan)
    if number is None:
        return None
    tested = {name: site["test"] for name, site in result["scores"][number].items() if "test" in site}
    without = getattr(plan.partition, "without", "")
    return by_domain({without: tested[without]} if without else tested)


def row(protocols: Sequence[str], variant: str, batch: int, results: Path) -> Row | None:
    """A row from the results of one protocol, or of a group in which each brings its unseen domain.

    Returns:
        None if nothing was run, or not with the same seeds.
    """
    runs = {name: finished(name, variant, batch, results) for name in protocols}
    seeds = sorted(set.intersection(*({run["seed"] for run in found} for found in runs.values())))
    if not seeds:
        return None
    scores: dict[int, Scores | None] = {}
    for seed in seeds:
        parts = [
            test_scores(run, PROTOCOLS[name]) for name, found in runs.items() for run in found if run["seed"] == seed
        ]
        known = [part for part in parts if part is not None]
        scores[seed] = (
            {key: value for part in known for key, value in part.items()} if len(known) == len(parts) else None
        )
    first = [run for run in runs[protocols[0]] if run["seed"] in seeds]
    return Row(variant, batch, _settings(protocols, first), scores, _validation(first, PROTOCOLS[protocols[0]]))


def _settings(protocols: Sequence[str], runs: Runs) -> str:
    if len(protocols) > 1:
        return "tuned | each"
    training = runs[0]["config"]["training"]
    return f"{training['lr']:g} | {training['clipping'] or 'off'}"


def _validation(runs: Runs, plan: Protocol) -> float | None:
    numbers = [reported_round(run, plan) for run in runs]
    if not all(numbers):
        return None
    return statistics.mean(
        mean_score(run, plan, str(number), "validation") for run, number in zip(runs, numbers, strict=True)
    )


def best(found: Sequence[Row], variant: str) -> Row | None:
    """The row of a variant whose batch size is best on validation images."""
    candidates = [row for row in found if row.variant == variant and row.validation is not None]
    return max(candidates, key=lambda row: row.validation or 0.0, default=None)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _line(row: Row, plan: Protocol) -> str:
    metric = METRICS[plan.metric]
    scores = [score for score in row.scores.values() if score is not None]
    head = f"| {row.label} | {row.batch} | {row.settings} | {', '.join(map(str, row.scores))} |"
    if len(scores) < len(row.scores):
        return f"{head} diverged with {len(row.scores) - len(scores)} of {len(row.scores)} seeds |"
    cells = [_cell([metric(score[domain]) for score in scores]) for domain in sorted(scores[0])]
    mean = _cell([statistics.mean(metric(site) for site in score.values()) for score in scores])
    return f"{head} {' | '.join(cells)} | **{mean}** | {published(plan.images, row.variant)} |"


def _differences(plan: Protocol, found: Sequence[Row]) -> Iterator[str]:
    ours = best(found, plan.ours)
    for variant in plan.rows:
        other = best(found, variant)
        if ours is None or other is None or variant == plan.ours:
            continue
        pairs = [
            (mine, theirs)
            for seed, mine in ours.scores.items()
            if mine is not None and (theirs := other.scores.get(seed)) is not None
        ]
        if pairs:
            difference = paired([first for first, _ in pairs], [second for _, second in pairs], plan.metric)
            interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}" if difference.seeds > 1 else "-"
            yield (
                f"| {other.label}, batch {other.batch} | {100 * difference.mean:+.1f} | {interval} | "
                f"{difference.seeds} | {difference.verdict} |"
            )


def section(title: str, protocols: Sequence[str], results: Path = RESULTS) -> str:
    """One protocol, or a group of them, as Markdown."""
    plan = PROTOCOLS[protocols[0]]
    wanted = list(rows(protocols[0]))
    found = [made for variant, batch in wanted if (made := row(protocols, variant, batch, results)) is not None]
    text = [f"## {title}", "", f"{_what(plan)}"]
    whole = next((score for row in found for score in row.scores.values() if score is not None), None)
    if found:
        heads = ["method", "batch", "lr", "clipping", "seeds", *sorted(whole or {}), "mean", "published"]
        text += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(_line(row, plan) for row in found)]
        if len(protocols) == 1:
            text += ["", f"![Learning curves]({CURVES}/{title}.svg)"]
    if differences := list(_differences(plan, found)):
        ours = best(found, plan.ours)
        text += ["", f"`{plan.ours}` at its best batch size by validation ({ours.batch if ours else '-'}), less:", ""]
        text += [f"| method | points | 95 % interval | seeds | {plan.ours} is |", "|---|---|---|---|---|", *differences]
    done = {(row.variant, row.batch) for row in found if len(row.scores) == len(plan.seeds)}
    missing = [f"{variant} at {batch}" for variant, batch in wanted if (variant, batch) not in done]
    if missing:
        text += ["", f"Not run yet with all seeds: {', '.join(missing)}."]
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
    cut = f" Smaller than published: {plan.cut}." if plan.cut else ""
    tested = " Each domain in turn is left out of the training and scored." if plan.group else ""
    return f"{plan.images}, {network}, {plan.rounds} rounds of {epochs}; {metric} of {choice}.{tested}{cut}"


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
    parts = [HEAD + NOT_COMPARABLE, *(section(title, names, results) for title, names in sections().items())]
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
