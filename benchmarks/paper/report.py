"""docs/results.md and its curves from the committed results: what was run, what is missing, and what follows.

Every figure on that page comes from the JSON files; a verdict is what the interval of a paired difference allows.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import batch_one, lines
from benchmarks.paper.comparing import paired
from benchmarks.paper.curves import learning_curve, svg
from benchmarks.paper.protocols import PROTOCOLS, Protocol
from benchmarks.paper.published import NOT_COMPARABLE, published
from benchmarks.paper.running import RESULTS, Spec, result_path
from benchmarks.paper.scoring import METRICS
from benchmarks.paper.tuning import chosen, mean_score, rows

OURS = "fedwon"
CURVES = "curves"
HEAD = """# What has been measured

Made by `python -m benchmarks.paper report` from the JSON files in `benchmarks/results/`.

The paper's comparisons, rerun with `python -m benchmarks.paper tune` and `run`. Learning rate and clipping of every
row were chosen on validation images from one grid for all methods, with a seed of its own. Accuracy is on test
images, in %, mean ± standard deviation over seeds. A difference is paired: same seeds, same test images; its 95 %
interval counts the spread over seeds (Student's t) and over images. A verdict other than "undecided" means that the
interval excludes zero.
"""
NAMES = {"fedwon": "fedwon (ReLU constant)", "fedwon_paper": "fedwon (the paper's listing)"}

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


def test_scores(result: Mapping[str, Any], plan: Protocol) -> dict[str, Any] | None:
    """Test counts by domain of the reported round."""
    number = reported_round(result, plan)
    return None if number is None else {name: site["test"] for name, site in result["scores"][number].items()}


def best_batch(protocol: str, variant: str, found: Mapping[tuple[str, int], Runs]) -> int | None:
    """The batch size of a variant with the best mean on validation images, among those that were run."""
    plan, means = PROTOCOLS[protocol], {}
    for (name, batch), runs in found.items():
        numbers = [reported_round(run, plan) for run in runs]
        if name == variant and runs and all(numbers):
            scores = [
                mean_score(run, plan, str(number), "validation") for run, number in zip(runs, numbers, strict=True)
            ]
            means[batch] = statistics.mean(scores)
    return max(means, key=lambda batch: means[batch]) if means else None


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _row(variant: str, batch: int, runs: Runs, plan: Protocol) -> str:
    label = NAMES.get(variant, variant)
    metric = METRICS[plan.metric]
    scores = [score for run in runs if (score := test_scores(run, plan)) is not None]
    training = runs[0]["config"]["training"]
    clipping = training["clipping"] or "off"
    seeds = ", ".join(str(run["seed"]) for run in runs)
    head = f"| {label} | {batch} | {training['lr']:g} | {clipping} | {seeds} |"
    if len(scores) < len(runs):
        return f"{head} diverged with {len(runs) - len(scores)} of {len(runs)} seeds |"
    cells = [_cell([metric(score[domain]) for score in scores]) for domain in sorted(scores[0])]
    mean = _cell([statistics.mean(metric(site) for site in score.values()) for score in scores])
    return f"{head} {' | '.join(cells)} | **{mean}** | {published(plan.images, variant)} |"


def _differences(protocol: str, found: Mapping[tuple[str, int], Runs]) -> Iterator[str]:
    plan = PROTOCOLS[protocol]
    ours = best_batch(protocol, OURS, found)
    if ours is None:
        return
    for variant in plan.rows:
        other = best_batch(protocol, variant, found)
        if variant == OURS or other is None:
            continue
        pairs = _pairs(found[OURS, ours], found[variant, other], plan)
        if pairs:
            difference = paired([first for first, _ in pairs], [second for _, second in pairs], plan.metric)
            interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}" if difference.seeds > 1 else "-"
            yield (
                f"| {NAMES.get(variant, variant)}, batch {other} | {100 * difference.mean:+.1f} | {interval} | "
                f"{difference.seeds} | {difference.verdict} |"
            )


def _pairs(first: Runs, second: Runs, plan: Protocol) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    theirs = {run["seed"]: test_scores(run, plan) for run in second}
    mine = {run["seed"]: test_scores(run, plan) for run in first}
    return [(mine[seed], theirs[seed]) for seed in mine if mine[seed] and theirs.get(seed)]  # type: ignore[misc]


def section(protocol: str, results: Path = RESULTS) -> str:
    """One protocol as Markdown."""
    plan = PROTOCOLS[protocol]
    found = {(variant, batch): finished(protocol, variant, batch, results) for variant, batch in rows(protocol)}
    done = {row: runs for row, runs in found.items() if runs}
    text = [f"## {protocol}", "", f"{_what(plan)}"]
    if done:
        domains = sorted(next(iter(done.values()))[0]["scores"][max(next(iter(done.values()))[0]["scores"], key=int)])
        heads = ["method", "batch", "lr", "clipping", "seeds", *domains, "mean", "published"]
        text += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        text += [_row(variant, batch, runs, plan) for (variant, batch), runs in done.items()]
        text += ["", f"![Learning curves]({CURVES}/{protocol}.svg)"]
    if differences := list(_differences(protocol, done)):
        ours = best_batch(protocol, OURS, done)
        text += ["", f"`{OURS}` at its best batch size by validation ({ours}), less:", ""]
        text += ["| method | points | 95 % interval | seeds | fedwon is |", "|---|---|---|---|---|", *differences]
    missing = [f"{variant} at {batch}" for (variant, batch), runs in found.items() if len(runs) < len(plan.seeds)]
    if missing:
        text += ["", f"Not run yet with all seeds: {', '.join(missing)}."]
    return "\n".join(text)


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
    return f"{plan.images}, {network}, {plan.rounds} rounds of {epochs}; {metric} of {choice}.{cut}"


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
    parts = [HEAD + NOT_COMPARABLE, *(section(protocol, results) for protocol in PROTOCOLS)]
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
