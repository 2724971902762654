"""docs/faults.md, from the rows and the figures of the drift alarm that are there."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import drift
from benchmarks.faulty.cameras import FAULTS
from benchmarks.faulty.rows import CLASS, FIRST, LAST, METHODS, OTHERS, OWN, ROUNDS, SETS, every

Row = Mapping[str, Any]
NEAR = 0.03
"""As far below the run without a fault a line may be and count as recovered."""

HEAD = """\
# Faults of sensors and lines

Written by `python -m benchmarks.faults report` from the rows that `python -m benchmarks.faults run` has left below
`benchmarks/results/faults/`, and from `benchmarks/results/drift.json`.

One line of a federation has a fault; it trains with it, for it does not know. {rounds} rounds of one epoch, batches of
10, `digit_cnn` of width 0.1 on 28 pixels, learning rate 0.1 for all methods. **Everything is small, so that a row takes
a minute**; accuracies are for comparing rows. The fault is there from round {first} to round {last}, or stays where the
table says so. Every figure is of one seed unless brackets say how many.

- **before**: accuracy on the line's test images, mean of the three rounds before.
- **while**: the same while the fault lasts, on test images that show it. Where it cannot be seen in an image, on
  the usual ones; of a class that comes or goes, on the test images of that class at all lines.
- **without**: the same rounds of the same run without a fault. *while* beside *without* is what the fault costs.
- **others**: what it costs the other lines meanwhile, in points of accuracy. Of a new class, their test images of it
  count too, which the run without a fault has learnt from the start.
- **recovers**: rounds after the repair (or, where the fault stays, after its beginning) until the line is within
  {near:.0f} points of *without* in two rounds in a row; `-`: not before the run's end. Scores of 100 images jump by
  that much.
"""

ALARM = """\
## The drift alarm

The server raises it from what it sees already: how many of its validation images each line gets right with the model
that it is sent ([decision 0040](decisions/0040-drift-alarm.md)). It shows in `fedwon-server status`, in the log and the
audit trail, whose lines the operator's page shows, and as `fedwon_site_drift_ratio` and `fedwon_site_drift_alarm` among
the metrics. Nothing else follows: the line's updates go on counting. `run.drift` sets its threshold, or turns it off.

**False alarms** per thousand rounds of a site (in brackets: alarms of rounds), on traces in which nothing happens:
`python -m benchmarks.drift`, {date}. *Steady*: lines that have learnt, other images every round; *simulated*: lines
that learn; *real runs*: all {runs} runs kept below `benchmarks/results/paper/`. The default is {default:g}.

{false}

**Found** within {patience} rounds of a fall of the line's accuracy by so many points, and after how many rounds
(median). Falls of ten points drown in the noise of a hundred images. Of the real runs, which are short and still learn,
half of the falls of forty points are found; at lines that have learnt, all are. In the rows above, with 40 validation
images, seven rounds before the fault, and a model that has learnt the fault two rounds later, the alarm comes rarely:
it is made for federations that have run for weeks.

{falls}
"""


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    parts = [
        HEAD.format(rounds=ROUNDS, first=FIRST, last=LAST, near=100 * NEAR),
        _standing(rows),
        _faults(),
        _together(rows),
    ]
    for name, kind in SETS.items():
        of_set = [row for row in rows if row["images"] == name]
        if of_set:
            parts += [f"## {kind.words}\n", "\n".join(_table(of_set)) + "\n"]
    if drift.RESULT.exists():
        parts.append(_alarm(json.loads(drift.RESULT.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def _standing(rows: Sequence[Row]) -> str:
    wanted = list(every())
    said = f"{len(rows)} of {len(wanted)} rows are here (image sets x faults x methods x seeds)."
    missing = []
    for name in SETS:
        here = sum(row["images"] == name for row in rows)
        of_set = sum(spec.images == name for spec in wanted)
        if here < of_set:
            missing.append(f"{name}: {of_set - here}")
    return f"{said} **Not run yet:** {', '.join(missing)}.\n" if missing else f"{said}\n"


def _faults() -> str:
    lines = [
        f"| {_name(name)} | {fault.words} | {'stays' if fault.lasts else f'rounds {FIRST} to {LAST}'} |"
        for name, fault in FAULTS.items()
        if name != "nothing"
    ]
    return "\n".join(["| fault | what it is | |", "|---|---|---|", *lines, ""])


def _together(rows: Sequence[Row]) -> str:
    """What the faults that are repaired come to, method by method: cost, and how soon the line is back."""
    lines = [
        "## All faults that are repaired, together\n",
        "Costs of all image sets and seeds, of lines beside themselves:\n",
    ]
    lines += ["| method | cost while it lasts | back at once or after a round | back later | not back by the end |"]
    lines += ["|---|---|---|---|---|"]
    for method in METHODS:
        pairs = list(_repaired(rows, method))
        if not pairs:
            continue
        span = slice(FIRST, LAST)
        costs = [
            statistics.fmean(other["curves"][OWN][span]) - statistics.fmean(row["curves"][OWN][span])
            for row, other in pairs
        ]
        back = [_recovered(row, other, row["fault"]) for row, other in pairs]
        soon, never = sum(rounds in {0, 1} for rounds in back), back.count(None)
        cost = f"{100 * statistics.fmean(costs):.1f} points"
        lines.append(f"| {method} | {cost} | {soon} of {len(back)} | {len(back) - soon - never} | {never} |")
    return "\n".join([*lines, ""])


def _repaired(rows: Sequence[Row], method: str) -> Iterator[tuple[Row, Row]]:
    """Each row of a fault that is repaired, beside the run without it."""
    of_method = [row for row in rows if row["method"] == method and not row["failed"]]
    quiet = {(row["images"], row["seed"]): row for row in of_method if row["fault"] == "nothing"}
    for row in of_method:
        other = quiet.get((row["images"], row["seed"]))
        if other is not None and row["fault"] != "nothing" and not FAULTS[row["fault"]].lasts:
            yield row, other


def _name(fault: str) -> str:
    return fault.replace("_", " ")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| fault | method | before | while | without | others | recovers | drift alarm after |"
    yield "|---|---|---|---|---|---|---|---|"
    alarms = _alarms()
    for fault in FAULTS:
        for method in METHODS:
            found = [row for row in rows if (row["fault"], row["method"]) == (fault, method)]
            if found and fault != "nothing":
                quiet = [row for row in rows if (row["fault"], row["method"]) == ("nothing", method)]
                after = [alarms.get((row["images"], fault, method, row["seed"])) for row in found]
                yield f"| {_name(fault)} | {method} | {' | '.join(_cells(found, quiet, fault))} | {_after(after)} |"


def _alarms() -> dict[tuple[str, str, str, int], int | None]:
    if not drift.RESULT.exists():
        return {}
    measured = json.loads(drift.RESULT.read_text(encoding="utf-8"))["measured"]
    of_default = next((one for one in measured if one["threshold"] == drift.THRESHOLD), measured[0])
    return {(row["images"], row["fault"], row["method"], row["seed"]): row["after"] for row in of_default["faults"]}


def _after(found: Iterable[int | None]) -> str:
    words = ["-" if rounds is None else f"{rounds} rounds" for rounds in found]
    return ", ".join(words) or "-"


def _cells(rows: Sequence[Row], quiet: Sequence[Row], fault: str) -> list[str]:
    """Return what one fault does to one method: before, while, without, others, recovers."""
    if any(row["failed"] for row in rows):
        return [f"*broken*: {rows[0]['failed']}", "", "", "", ""]
    without = {row["seed"]: row for row in quiet}
    what = CLASS if fault in {"vanished_class", "new_class"} else OWN
    span = slice(FIRST, ROUNDS if FAULTS[fault].lasts else LAST)  # models that were made, or are met, with the fault
    during = [statistics.fmean(row["curves"][what][span]) for row in rows]
    before = [statistics.fmean(row["curves"][what][FIRST - 4 : FIRST - 1]) for row in rows]
    pairs = [(row, without[row["seed"]]) for row in rows if row["seed"] in without]
    usual = [statistics.fmean(other["curves"][OWN][span]) for _, other in pairs] if what == OWN else []
    cost = [
        statistics.fmean(row["curves"][OTHERS][span]) - statistics.fmean(other["curves"][OTHERS][span])
        for row, other in pairs
    ]
    back = [_recovered(row, other, fault) for row, other in pairs] if what == OWN else []
    return [
        _percent(before, len(rows)),
        _percent(during, len(rows)),
        _percent(usual, 1) if usual else "-",
        f"{100 * statistics.fmean(cost):+.1f}" if cost else "not run",
        ", ".join("-" if rounds is None else str(rounds) for rounds in back) or "-",
    ]


def _percent(values: Sequence[float], seeds: int) -> str:
    return f"{100 * statistics.fmean(values):.1f} %" + (f" ({seeds})" if seeds > 1 else "")


def _recovered(row: Row, other: Row, fault: str) -> int | None:
    """Return after how many rounds the line is as good as without the fault, twice in a row; None: it never is."""
    begin = FIRST - 1 if FAULTS[fault].lasts else LAST
    own, usual = row["curves"][OWN], other["curves"][OWN]
    near = [own[index] >= usual[index] - NEAR for index in range(begin, min(len(own), len(usual)))]
    return next((index for index in range(len(near) - 1) if near[index] and near[index + 1]), None)


def _alarm(result: Mapping[str, Any]) -> str:
    false, _, falls = drift.table(result).partition("\n\n")
    return ALARM.format(
        date=result["date"],
        runs=result["runs"],
        default=drift.THRESHOLD,
        false=false,
        patience=drift.PATIENCE,
        falls=falls,
    )
