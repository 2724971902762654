"""What an update must be before it may touch the global model, as far as it can be told from the update alone.

Each rule is a small function that returns a reason in words, or None. A refused update is kept for inspection and never
stops the others. `outliers` has the rules that compare the updates of a round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedwon.common.arrays import StoredArray, StoredRecord
from fedwon.common.errors import BrokenFile, ModelMismatch
from fedwon.common.network_state import check_same
from fedwon.common.rebuilding import most_bytes, numbers_size
from fedwon.common.surveys import Survey, images_in
from fedwon.common.update_settings import AdmissionConfig

PARTS = ("validation", "test")
REQUIRED_METRICS = ("num-examples", "validation-correct", "validation-examples", "validation-loss")
MEASURED = ("num-examples", "validation-examples", "test-examples")
"""Numbers of a site's own images, by which it is weighed, or its accuracy is."""
BLOCK = 2**16
"""Numbers that are looked at at a time."""
MOST_METRICS = 64
"""Numbers that a site may send with one answer; each becomes a row of the database."""
LONGEST_KEY = 64
"""Characters of such a number's name."""
MOST_COUNTED = 2**53
"""Counts beyond are no counts: float64 cannot tell them from their neighbours."""
VARIANCES = "running_var"
"""Ends the name of batch norm's tensor of running variances."""
BEHIND = "sites-behind"
"""The number in which a relay says of how many sites its update is the mean."""

Rule = Literal[
    "broken", "size", "numbers", "examples", "growth", "tensors", "finite", "replay", "norm", "own_norm", "cosine",
    "suspended", "relay",
]  # fmt: skip
"""What an update was refused by."""


@dataclass(frozen=True)
class Refusal:
    """Why an update does not count.

    Attributes:
        rule: which rule it breaks.
        reason: in words, for the operator.
    """

    rule: Rule
    reason: str


@dataclass(frozen=True)
class Past:
    """An update that counted in an earlier round.

    Attributes:
        site: whose it was.
        round: that it was asked for in.
        examples: training images that it declared.
        norm: of its difference to the model that it started from; None where it was not measured.
        digest: of its tensors' file.
    """

    site: str
    round: int
    examples: float
    norm: float | None
    digest: str


def refuse_metrics(metrics: Mapping[str, Any]) -> str | None:
    """Look at the numbers of an answer: all there, finite, and counts that can be counts."""
    if len(metrics) > MOST_METRICS:
        return f"the answer has {len(metrics)} numbers; {MOST_METRICS} are the most"
    if any(len(key) > LONGEST_KEY or not key.isprintable() for key in metrics):
        return "the answer names a number in a way that cannot be shown"
    tested = [f"test-{key}" for key in ("correct", "examples", "loss")] if "test-examples" in metrics else []
    missing = [key for key in (*REQUIRED_METRICS, *tested) if key not in metrics]
    if missing:
        return f"the answer lacks {', '.join(missing)}"
    broken = [key for key, value in metrics.items() if not _is_finite(value)]
    if broken:
        return f"{', '.join(broken)} is not a finite number"
    return _refuse_counts(metrics)


def _is_finite(value: object) -> bool:
    """Tell whether it is a finite number; an integer that no float can hold is none."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _refuse_counts(metrics: Mapping[str, float]) -> str | None:
    counts = {key: value for key, value in metrics.items() if key.endswith(("-examples", "-correct", BEHIND))}
    odd = [key for key, value in counts.items() if not 0 <= value <= MOST_COUNTED or value != int(value)]
    if odd:
        return f"{', '.join(odd)} is no count"
    for part in PARTS:
        if counts.get(f"{part}-correct", 0) > counts.get(f"{part}-examples", math.inf):
            return f"{part}-correct is more than {part}-examples"
    return None


def refuse_measured(metrics: Mapping[str, Any], survey: Survey | None) -> str | None:
    """Look at the numbers of an answer, and whether it counts more images of a part than its site has of all.

    A site tells of its images when it connects. Some may come later, and move from one part to another; hence not more
    exactly.

    Args:
        metrics: the numbers.
        survey: what the site reported; None if it did not, or where its word is not looked at.
    """
    if (reason := refuse_metrics(metrics)) is not None or survey is None:
        return reason
    held = images_in(survey)
    beyond = [key for key in MEASURED if metrics.get(key, 0) > held]
    if not beyond:
        return None
    return f"{beyond[0]} is {metrics[beyond[0]]:.0f}; the site reported {held} images when it connected"


def refuse_size(update: ArrayRecord, reference: ArrayRecord) -> str | None:
    """Look at how much came, before anything of it is read or written."""
    size, model = numbers_size(update), numbers_size(reference)
    return f"it has {size} bytes of numbers, and the model has {model}" if size > most_bytes(model) else None


def refuse_examples(declared: float, survey: int | None, most: int | None = None) -> str | None:
    """Look at the number of training images that gives the update its weight.

    Args:
        declared: what the answer says.
        survey: training and validation images that the site reported when it connected; None if it did not.
        most: images that any update may declare.
    """
    if declared < 1:
        return "it declares no training image"
    if most is not None and declared > most:
        return f"it declares {declared:.0f} training images; `run.admission.most_examples` is {most}"
    if survey is not None and declared > survey:
        return f"it declares {declared:.0f} training images; the site reported {survey} images when it connected"
    return None


def refuse_growth(declared: float, past: Sequence[Past], most: float) -> str | None:
    """Look at the number of training images beside what the site declared in earlier rounds.

    Args:
        declared: what the answer says.
        past: the site's own updates of the rounds before.
        most: so many times their median are allowed.
    """
    if not past:
        return None
    usual = statistics.median(update.examples for update in past)
    if declared <= most * usual:
        return None
    return (
        f"it declares {declared:.0f} training images; in its last {len(past)} rounds it declared {usual:.0f}, "
        f"and `run.admission.count_growth` allows {most:g} times that"
    )


def refuse_relay(behind: float, rule: str) -> str | None:
    """Look at whether the update is one site's own, where the rule that puts updates together tells sites apart."""
    if behind <= 1:
        return None
    return (
        f"it is the mean of {behind:.0f} sites behind a relay, in which a hostile one cannot be told any more: "
        f"`run.aggregation.rule: {rule}` needs each site's own update"
    )


def refuse_replay(digest: str, earlier: int | None) -> str | None:
    """Look at whether the update is new; `earlier`: the round in which the site sent the very same, None if in none."""
    return None if earlier is None else f"it has the bits of the site's update of round {earlier} ({digest[:12]})"


def refuse_arrays(update: ArrayRecord, reference: ArrayRecord) -> str | None:
    """Look at the tensors: names, shapes and element types as the reference's, and every number one that can be."""
    return refuse_layout(update, reference) or refuse_values(update, reference)


def refuse_layout(update: ArrayRecord, reference: ArrayRecord) -> str | None:
    """Look at names, shapes and element types: those of the reference."""
    try:
        check_same(_shapes(reference), _shapes(update), "The update")
    except ModelMismatch as error:
        return error.message
    for name, array in update.items():
        if array.dtype not in _allowed(reference[name].dtype):
            return f"tensor `{name}` is {array.dtype}, the global model's is {reference[name].dtype}"
    return None


def refuse_values(update: ArrayRecord, reference: ArrayRecord) -> str | None:
    """Look at every number of tensors that have the layout of the reference.

    They are finite, also in its element types; variances of batch norm are not negative, for their mean would have no
    square root at any site. No codec makes them so: it keeps vectors as they are.
    """
    whole = _mapped(update.blob.path) if isinstance(update, StoredRecord) else None  # once for all tensors
    for name, array in update.items():
        if not np.issubdtype(np.dtype(array.dtype), np.floating):
            continue
        values = _flat(array, whole)
        if not _finite(values, reference[name].dtype):
            return f"tensor `{name}` holds numbers that are not finite"
        if name.endswith(VARIANCES) and values.min(initial=0) < 0:
            return f"tensor `{name}` holds variances below zero"
    return None


def _allowed(dtype: str) -> set[str]:
    """Element types in which a tensor may come: the global model's, and float64, in which a relay sends its means."""
    return {dtype, "float64"} if np.issubdtype(np.dtype(dtype), np.floating) else {dtype}


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise BrokenFile(f"{path} cannot be read: {error}.") from None


def _flat(array: Array, whole: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Return a tensor's numbers, where they can be out of the mapped file."""
    if not isinstance(array, StoredArray) or whole is None:
        return array.numpy().reshape(-1)
    slot = array.slot
    return whole[slot.offset : slot.offset + slot.size].view(slot.dtype)


def _finite(values: NDArray[np.floating], dtype: str) -> bool:
    """Tell whether every number is finite, also in the global model's element type; by blocks, for the cache."""
    largest = np.finfo(dtype).max
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        if not np.isfinite(block).all() or (values.dtype != dtype and np.abs(block).max() > largest):
            return False
    return True


def _shapes(record: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in record.items()}


@dataclass(frozen=True)
class Landed:
    """An update as it came.

    Attributes:
        update: its arrays.
        metrics: its numbers.
        survey: what images the site reported when it connected; None if it did not.
        past: the site's own updates of the rounds before.
        earlier: the earlier round in which the site sent these very bits; None if it did in none.
        alone: the rule of `run.aggregation` that tells sites apart; "" where it does not.
    """

    update: StoredRecord
    metrics: Mapping[str, Any]
    survey: Survey | None = None
    past: Sequence[Past] = ()
    earlier: int | None = None
    alone: str = ""


DEFAULTS = AdmissionConfig()


def refuse(landed: Landed, reference: ArrayRecord, rules: AdmissionConfig = DEFAULTS) -> Refusal | None:
    """Apply the rules to an update; return the first that it breaks, or None.

    Args:
        landed: the update.
        reference: what sites share of the global model that it was trained from.
        rules: which rules are on.
    """
    for rule, reason in _looks(landed, reference, rules):
        if reason is not None:
            return Refusal(rule, reason)
    return None


def _looks(landed: Landed, reference: ArrayRecord, rules: AdmissionConfig) -> Iterator[tuple[Rule, str | None]]:
    yield "numbers", refuse_metrics(landed.metrics)
    if landed.alone:
        yield "relay", refuse_relay(landed.metrics.get(BEHIND, 1), landed.alone)
    declared, survey = float(landed.metrics["num-examples"]), landed.survey if rules.surveyed else None
    trainable = None if survey is None else images_in(survey, ("train", "validation"))
    yield "examples", refuse_examples(declared, trainable, rules.most_examples)
    yield "examples", refuse_measured(landed.metrics, survey)
    if rules.count_growth is not None:
        yield "growth", refuse_growth(declared, landed.past, rules.count_growth)
    yield "tensors", refuse_layout(landed.update, reference)
    if rules.finite:
        yield "finite", refuse_values(landed.update, reference)
    yield "replay", refuse_replay(landed.update.blob.digest, landed.earlier)
