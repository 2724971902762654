"""The steps of all forms of each network beside one another: times, paired ratios, peak memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stepping.circumstances import sentence
from benchmarks.stepping.forms import BATCHES, FORMS, network_of, runnable, step_of
from benchmarks.stepping.peaks import peaks_of
from benchmarks.stepping.timing import in_turn, milliseconds, ratios, spread

PEAKS = ("plain", "standardized", "batch norm")
AGAINST = "ratio_to_batch_norm"
AIMS = ((32, "ratio", 1.05), (1, "ratio", 1.15), *((batch, AGAINST, 1.0) for batch in BATCHES if batch > 1))
"""Batch size, which ratio of the standardized step, and what its median should be at most (of the last: below)."""
INTRODUCTION = """\
Made by `python -m benchmarks.step_time --write` (`benchmarks/results/step_time.json`). One step is forward, backward
and plain SGD on random images (`digit_cnn` 28 px, `alexnet` 128 px, the others 64 px). The forms are taken in turn in
one process on one thread, so that whatever else the machine does falls on all alike; ratios are taken turn by turn,
and what is shown is their median with the quartiles in brackets. Images lie in memory as a site lays them out, alike
for all forms of a network (`mobilenet_v2`, and `efficientnet_b0` from three images on: channels_last). "Plain" is the
same network with ordinary convolutions and nothing in place of the normalization; "with clipping" is WSConv with
adaptive clipping; "recipe" is that with standardized hidden linear layers too, which is fedwon's default. Peak memory
is that of a process that trains one form only, some 500 MB of it torch's libraries; from one process to the next it
differs by up to 5 %."""


def measure(networks: Sequence[str], seconds: float) -> dict[str, Any]:
    """Time and weigh all forms of these networks at all batch sizes.

    Args:
        networks: Names.
        seconds: For the timing of all of them together; those that need longer for the fewest turns take it.
    """
    share = seconds / (len(networks) * len(BATCHES))
    times, peaks = {}, {}
    for name in networks:
        models = {form: network_of(name, form) for form in FORMS}
        times[name] = {str(batch): _compare(models, name, batch, share) for batch in BATCHES}
        del models
        peaks[name] = {form: peaks_of(name, form) for form in PEAKS}
    return {"networks": times, "peaks": peaks}


def _compare(models: Mapping[str, Any], name: str, batch: int, seconds: float) -> dict[str, Any]:
    forms = [form for form in models if runnable(form, batch)]
    times = in_turn({form: step_of(models[form], name, form, batch) for form in forms}, seconds)
    for form in forms:
        models[form].zero_grad()
    return summary(times)


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What is kept of the seconds of each turn, by form.

    Returns:
        By form the median milliseconds, the quartiles of its ratio to the plain step and, for the standardized one,
        of its ratio to that with batch norm where this ran.
    """
    found: dict[str, Any] = {
        form: {"milliseconds": milliseconds(values), "ratio": ratios(values, times["plain"]), "turns": len(values)}
        for form, values in times.items()
    }
    if "batch norm" in times:
        found["standardized"][AGAINST] = ratios(times["standardized"], times["batch norm"])
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    heads = (
        *("network", "batch", "plain, ms", "WSConv / plain", "with clipping / plain", "recipe / plain"),
        *("batch norm / plain", "WSConv / batch norm", "peak MB: plain, WSConv, batch norm"),
    )
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, batches in found["networks"].items():
        for batch, forms in batches.items():
            cells = [name, batch, f"{forms['plain']['milliseconds']:.1f}"]
            cells += [spread(forms[form]["ratio"]) if form in forms else "-" for form in FORMS[1:]]
            against = forms["standardized"].get(AGAINST)
            cells += [spread(against) if against else "-", _memory(found["peaks"][name], batch)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(peaks: Mapping[str, Any], batch: str) -> str:
    megabytes = [peaks[form]["megabytes"].get(batch) for form in PEAKS]
    return ", ".join("-" if one is None else f"{one:.0f}" for one in megabytes)


def verdicts(found: Mapping[str, Any]) -> str:
    """Which networks met each aim, by the median."""
    return "\n".join(_verdict(found["networks"], *aim) for aim in AIMS)


def _verdict(networks: Mapping[str, Any], batch: int, key: str, most: float) -> str:
    medians = {name: batches[str(batch)]["standardized"][key][1] for name, batches in networks.items()}
    met = {name: median for name, median in medians.items() if (median < most if key == AGAINST else median <= most)}
    missed = {name: median for name, median in medians.items() if name not in met}
    aim = "WSConv / batch norm below 1" if key == AGAINST else f"WSConv / plain at most {most:g}"
    words = [f"{word} {_listed(those)}" for word, those in (("met by", met), ("missed by", missed)) if those]
    return f"- {aim} at batch {batch}: {'; '.join(words)}."


def _listed(medians: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}` ({median:.3f})" for name, median in medians.items())


def page(found: Mapping[str, Any]) -> str:
    """The part of docs/performance.md."""
    fallback = not all(peak["forgotten"] for forms in found["peaks"].values() for peak in forms.values())
    note = "\nThis kernel forgets no peak: that of a batch size is the highest so far.\n" if fallback else ""
    return f"{INTRODUCTION}\n\n{table(found)}\n{note}\n{verdicts(found)}\n\n{sentence(found)}"
