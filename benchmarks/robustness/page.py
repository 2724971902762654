"""docs/robustness.md, from the rows that are there."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.paper.verdicts import interval, points
from benchmarks.robustness.hostile import ATTACKS
from benchmarks.robustness.rows import DEFENCES, METHODS, ROUNDS, SCALES, TEST, TRAIN, every
from fedwon.server.comparison.paired import over_seeds

Rows = Sequence[dict[str, Any]]

HEAD = """\
# Attacks and defences

Written by `python -m benchmarks.attacks report` from the rows that `python -m benchmarks.attacks run` has left below
`benchmarks/results/attacks/`. What each defence is, and what it costs: [admission](admission.md).

Digits-Five (five domains) dealt out to 10 and 20 sites, so that each domain has as many sites as any other.
**Everything is small, so that the whole table runs in hours on two cores**: {train} images a site, `digit_cnn` of
width 0.1, {rounds} rounds of one epoch, batches of 10. Accuracies are those of such a network, for comparing rows.

- **accuracy**: the global model after the last round on {test} test images of every site, unharmed.
- **backdoor**: test images of the other nine digits that carry the trigger and are taken for a 0.
- **refused**: updates of hostile sites that admission refused / updates of honest ones / honest sites that this met.
  Only the defence `admission` refuses updates: the defaults with `run.admission.cosine: -0.2`, which is off by default.
- `none` is the plain mean with admission off; the other rules have admission off as well, so that each stands alone.
  `hostile` and `trim` are told the true number of hostile sites.
- *broken*: the model is not finite, or the sites could not train it any more.
"""


QUESTION = """\
## Is a network without normalization easier to poison?

What an attack takes away from the undefended mean, in points of accuracy, beside the same seed with nobody hostile; of
the backdoor, what its success is beyond the clean model's. Means over the scales named; the interval is Student's t
over seeds, paired. More than zero: fedwon loses more.
"""


WORDS = {
    "harder": "harder to poison by",
    "easier": "easier to poison by",
    "undecided": "neither, as far as can be told, by",
}


def page(rows: Rows) -> str:
    """Return the page."""
    parts = [HEAD.format(train=TRAIN, test=TEST, rounds=ROUNDS), _attacks(), _standing(rows)]
    parts += [_question(rows)]
    for sites, hostile in SCALES:
        for method in METHODS:
            parts += _tables(rows, method, sites, hostile)
    return "\n".join(parts)


def _attacks() -> str:
    lines = ["| attack | the hostile sites |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {attack.words} |" for name, attack in ATTACKS.items()), ""])


def _standing(rows: Rows) -> str:
    wanted, here = len(list(every())), len(rows)
    if not rows:
        return "**No row has been run yet.**\n"
    missing = [
        f"{method}, {sites} sites with {hostile} hostile: {count} rows"
        for method in METHODS
        for sites, hostile in SCALES
        if (count := _missing(rows, method, sites, hostile))
    ]
    kinds = "attacks x defences x methods x scales x seeds; those with nobody hostile once"
    said = f"{here} of {wanted} rows are here ({kinds})."
    if not missing:
        return f"{said} None is missing.\n"
    return f"{said} **Not run yet:** {'; '.join(missing)}. A cell tells how many of its seeds are in it.\n"


def _missing(rows: Rows, method: str, sites: int, hostile: int) -> int:
    wanted = {
        spec.path.name
        for spec in every()
        if spec.method == method and spec.sites == sites and spec.hostile == hostile and spec.attack != "nobody"
    }
    return len(wanted) - len(_of(rows, method=method, sites=sites, hostile=hostile))


def _question(rows: Rows) -> str:
    """Compare fedwon with fedavg where nothing defends the model: what each attack takes away."""
    lines = [QUESTION]
    lines += ["| attack | fedwon | fedavg | difference | 95 % interval | seeds | sites/hostile | fedwon is |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    verdicts: dict[str, list[str]] = {verdict: [] for verdict in WORDS}
    for attack in ATTACKS:
        if attack != "nobody":
            line, verdict = _compared(rows, attack)
            lines.append(line)
            verdicts.get(verdict, []).append(attack)
    said = [f"{WORDS[verdict]} {', '.join(names)}" for verdict, names in verdicts.items() if names]
    return "\n".join([*lines, "", *([f"**fedwon is {'; '.join(said)}.**", ""] if said else [])])


def _compared(rows: Rows, attack: str) -> tuple[str, str]:
    """Return an attack's line, and whether fedwon is easier or harder to poison by it, if that can be told."""
    key = "backdoor" if attack == "backdoor" else "accuracy"
    harms = {method: _harms(rows, method, attack, key) for method in METHODS}
    broken = [f"{method} {count}" for method in METHODS if (count := _broken(rows, method, attack))]
    both = harms["fedwon"].keys() & harms["fedavg"].keys()
    scales = _complete(both)
    if not scales:
        return _without_pairs(rows, attack, harms)
    seeds = sorted({seed for scale, seed in both if scale == scales[0]})
    means = {
        method: [statistics.mean(found[scale, seed] for scale in scales) for seed in seeds]
        for method, found in harms.items()
    }
    change = over_seeds(means["fedwon"], means["fedavg"])
    verdict = {"better": "easier", "worse": "harder"}.get(change.verdict, change.verdict)
    cells = [f"{100 * statistics.mean(means[method]):+.1f}" for method in METHODS]
    cells += [points(change), interval(change), str(len(seeds)), ", ".join(f"{one[0]}/{one[1]}" for one in scales)]
    cells += [f"{verdict}" + (f" (*broken*: {', '.join(broken)})" if broken else "")]
    return f"| {attack} | " + " | ".join(cells) + " |", verdict


def _without_pairs(rows: Rows, attack: str, harms: Mapping[str, Mapping[Any, float]]) -> tuple[str, str]:
    """Return the line of an attack that left no pair to compare: the models of one method broke, or of both."""
    cells, intact = [], []
    for method in METHODS:
        found, broken = harms[method], _broken(rows, method, attack)
        intact += [method] if found and not broken else []
        lost = f"{100 * statistics.mean(found.values()):+.1f} ({len(found)})" if found else ""
        cells.append(f"{lost} *broken* ({broken})".strip() if broken else lost or "not run")
    everywhere = all(harms[method] or _broken(rows, method, attack) for method in METHODS)
    verdict = {"fedwon": "harder", "fedavg": "easier"}[intact[0]] if everywhere and len(intact) == 1 else ""
    return f"| {attack} | {' | '.join(cells)} | | | | | {verdict} |", verdict


def _complete(both: Collection[tuple[tuple[int, int], int]]) -> list[tuple[int, int]]:
    """Return the scales that have as many seeds as any has: a mean over other seeds is no pair."""
    seeds = {scale: {seed for here, seed in both if here == scale} for scale in SCALES}
    most = max(map(len, seeds.values()))
    return [scale for scale, found in seeds.items() if found and len(found) == most]


def _harms(rows: Rows, method: str, attack: str, key: str) -> dict[tuple[tuple[int, int], int], float]:
    """What an attack takes away (of a backdoor: what it brings), by scale and seed, where the model did not break."""
    clean = {(row["sites"], row["seed"]): row[key] for row in _of(rows, method=method, attack="nobody", defence="none")}
    found = {}
    for row in _of(rows, method=method, attack=attack, defence="none"):
        before, after = clean.get((row["sites"], row["seed"])), row.get(key)
        if before is not None and after is not None and not row.get("failed"):
            scale = (row["sites"], row["hostile"])
            found[scale, row["seed"]] = after - before if key == "backdoor" else before - after
    return found


def _broken(rows: Rows, method: str, attack: str) -> int:
    return sum(
        bool(row.get("failed")) or row.get("accuracy") is None
        for row in _of(rows, method=method, attack=attack, defence="none")
    )


def _of(rows: Rows, **wanted: object) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _tables(rows: Rows, method: str, sites: int, hostile: int) -> Iterable[str]:
    yield f"## {method}: {sites} sites, {hostile} hostile\n"
    yield "Accuracy in %, mean over seeds (in brackets: seeds); for the backdoor also its success.\n"
    yield "| attack | " + " | ".join(DEFENCES) + " | refused by admission |"
    yield "|---" * (len(DEFENCES) + 2) + "|"
    for attack in ATTACKS:
        count = 0 if attack == "nobody" else hostile
        here = _of(rows, method=method, sites=sites, hostile=count, attack=attack)
        cells = [_cell(_of(here, defence=defence), attack) for defence in DEFENCES]
        yield f"| {attack} | " + " | ".join([*cells, _refused(_of(here, defence="admission"))]) + " |"
    yield ""


def _cell(rows: Rows, attack: str) -> str:
    if not rows:
        return "not run"
    if all(row.get("refused") for row in rows):
        return "cannot be"
    good = [row for row in rows if row.get("accuracy") is not None and not row.get("failed")]
    broken = len(rows) - len(good)
    words = []
    if good:
        words.append(f"{100 * statistics.mean(row['accuracy'] for row in good):.1f}")
        if attack in {"backdoor", "nobody"}:
            words.append(f"/ {100 * statistics.mean(row['backdoor'] for row in good):.0f}")
        words.append(f"({len(good)})")
    if broken:
        words.append(f"*broken* ({broken})")
    return " ".join(words)


def _refused(rows: Rows) -> str:
    ran = [row for row in rows if not row.get("refused")]
    if not ran:
        return "not run"
    hostile, honest = (sum(row[f"refused_{kind}"] for row in ran) for kind in ("hostile", "honest"))
    sites = sum(len(row["honest_sites_refused"]) for row in ran)
    return f"{hostile} / {honest} / {sites}"
