"""docs/robustness.md, from the rows that are there."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.robustness.hostile import ATTACKS
from benchmarks.robustness.rows import DEFENCES, METHODS, ROUNDS, SCALES, TEST, TRAIN, every

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
    words = (
        "Accuracy that an attack takes away from the undefended mean, in points, by the same seeds with nobody hostile "
        "(mean over seeds and scales; in brackets how many pairs). Backdoor: success beyond what the clean model has."
    )
    lines = ["## Is a network without normalization easier to poison?", "", words, ""]
    lines += ["| attack | " + " | ".join(METHODS) + " |", "|---" * (1 + len(METHODS)) + "|"]
    for attack in ATTACKS:
        if attack != "nobody":
            lines += [f"| {attack} | " + " | ".join(_harm(rows, method, attack) for method in METHODS) + " |"]
    return "\n".join([*lines, ""])


def _harm(rows: Rows, method: str, attack: str) -> str:
    key = "backdoor" if attack == "backdoor" else "accuracy"
    clean = {
        (row["sites"], row["seed"]): row.get(key) for row in _of(rows, method=method, attack="nobody", defence="none")
    }
    lost, broken = [], 0
    for row in _of(rows, method=method, attack=attack, defence="none"):
        before = clean.get((row["sites"], row["seed"]))
        if before is None:
            continue
        if row.get(key) is None or row.get("failed"):
            broken += 1
        else:
            lost.append(row[key] - before if key == "backdoor" else before - row[key])
    words = f"{100 * statistics.mean(lost):+.1f} ({len(lost)})" if lost else ""
    return " ".join(filter(None, [words, f"broken ({broken})" if broken else ""])) or "not run"


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
