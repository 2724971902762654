"""Every rule that an update must pass, each with the reason that the operator reads."""

from __future__ import annotations

import numpy as np
import pytest

from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.admission.rules import (
    BEHIND,
    MOST_METRICS,
    Landed,
    Past,
    refuse,
    refuse_arrays,
    refuse_examples,
    refuse_growth,
    refuse_measured,
    refuse_metrics,
    refuse_replay,
    refuse_size,
)
from tests.server.server_kit import good_metrics, record, stored


def model(**changes):
    arrays = {
        "conv__weight": np.zeros((2, 3), np.float32),
        "conv__bias": np.zeros(2, np.float32),
        "steps": np.array(5, np.int64),
    }
    return record(**{name: values for name, values in (arrays | changes).items() if values is not None})


METRICS = [
    ({}, None),
    ({"corrupt-images": 0, "clipped-fraction": -0.5, "train-loss": -1}, None),
    ({"num-examples": None}, "the answer lacks num-examples"),
    ({"validation-loss": None, "validation-correct": None}, "the answer lacks validation-correct, validation-loss"),
    ({"num-examples": float("nan")}, "num-examples is not a finite number"),
    ({"train-loss": float("inf")}, "train-loss is not a finite number"),
    ({"train-loss": [0.5]}, "train-loss is not a finite number"),
    ({"other-examples": [1, 2]}, "other-examples is not a finite number"),
    ({"num-examples": "10"}, "num-examples is not a finite number"),
    ({"num-examples": -3}, "num-examples is no count"),
    ({"num-examples": 2.5}, "num-examples is no count"),
    ({"validation-correct": -1}, "validation-correct is no count"),
    ({"num-examples": 10.0}, None),
    ({"validation-correct": 5, "validation-examples": 4}, "validation-correct is more than validation-examples"),
    ({"validation-correct": 0, "validation-examples": 0}, None),
    ({"test-examples": 3}, "the answer lacks test-correct, test-loss"),
    ({"test-examples": 3, "test-correct": 2, "test-loss": 0.1}, None),
    ({"test-examples": 3, "test-correct": 4, "test-loss": 0.1}, "test-correct is more than test-examples"),
    (
        {f"x{i}": 0.0 for i in range(MOST_METRICS)},
        f"the answer has {MOST_METRICS + 5} numbers; {MOST_METRICS} are the most",
    ),
    ({"\x1b[2J": 1.0}, "the answer names a number in a way that cannot be shown"),
    ({"k" * 65: 1.0}, "the answer names a number in a way that cannot be shown"),
]


@pytest.mark.parametrize(("changes", "reason"), METRICS)
def test_numbers(changes, reason):
    metrics = {key: value for key, value in (good_metrics() | changes).items() if value is not None}
    assert refuse_metrics(metrics) == reason


@pytest.mark.parametrize(
    ("declared", "survey", "reason"),
    [
        (10, 10, None),
        (10, None, None),
        (10**9, None, None),
        (0, None, "it declares no training image"),
        (0, 0, "it declares no training image"),
        (11, 10, "it declares 11 training images; the site reported 10 images when it connected"),
        (1, 0, "it declares 1 training images; the site reported 0 images when it connected"),
    ],
)
def test_examples(declared, survey, reason):
    assert refuse_examples(declared, survey) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test-examples": 6, "test-correct": 6, "test-loss": 0.1}, None),
        (
            {"validation-examples": 2**53, "validation-correct": 2**53},
            "validation-examples is 9007199254740992; the site reported 24 images when it connected",
        ),
        (
            {"test-examples": 25, "test-correct": 1, "test-loss": 0.1},
            "test-examples is 25; the site reported 24 images when it connected",
        ),
        ({"num-examples": 25}, "num-examples is 25; the site reported 24 images when it connected"),
        ({"other-examples": 10**6, "train-loss": 10**6}, None),
        ({"validation-correct": 5}, "validation-correct is more than validation-examples"),
    ],
)
def test_no_site_measures_on_more_images_than_it_has(tmp_path, changes, reason):
    survey = {"bad": {"train": 10, "validation": 4}, "": {"test": 10}}
    assert refuse_measured(good_metrics() | changes, survey) == reason
    assert (refuse_measured(good_metrics() | changes, None) is None) == (changes.get("validation-correct") != 5)
    landed = Landed(stored(tmp_path / "1", model()), good_metrics() | changes, survey=survey)
    found = refuse(landed, model())
    assert (found is None) == (reason is None)
    off = refuse(landed, model(), AdmissionConfig(surveyed=False))
    assert (off is None) == (changes.get("validation-correct") != 5)


MISFIT = "The update does not fit the network: "
ARRAYS = [
    ({}, None),
    ({"conv__bias": np.float32([1, -1e38])}, None),
    ({"steps": np.array(9, np.int64)}, None),
    ({"conv__bias": None}, MISFIT + "missing conv.bias."),
    ({"head": np.zeros(1)}, MISFIT + "unknown head."),
    (
        {"conv__bias": np.zeros(3, np.float32)},
        MISFIT + "other shape: conv.bias [3] in place of [2].",
    ),
    (
        {"conv__bias": np.zeros((2, 1), np.float32)},
        MISFIT + "other shape: conv.bias [2, 1] in place of [2].",
    ),
    ({"conv__bias": np.zeros(2, np.float16)}, "tensor `conv.bias` is float16, the global model's is float32"),
    ({"conv__bias": np.float64([1, -1e38])}, None),  # as a relay sends its means
    ({"conv__bias": np.float64([0, 1e39])}, "tensor `conv.bias` holds numbers that are not finite"),
    ({"conv__bias": np.float64([0, -np.inf])}, "tensor `conv.bias` holds numbers that are not finite"),
    ({"steps": np.array(5, np.float64)}, "tensor `steps` is float64, the global model's is int64"),
    ({"conv__bias": np.zeros(2, np.int32)}, "tensor `conv.bias` is int32, the global model's is float32"),
    ({"conv__bias": np.float32([0, np.nan])}, "tensor `conv.bias` holds numbers that are not finite"),
    ({"conv__weight": np.full((2, 3), -np.inf, np.float32)}, "tensor `conv.weight` holds numbers that are not finite"),
]


@pytest.mark.parametrize(("changes", "reason"), ARRAYS)
def test_tensors(tmp_path, changes, reason):
    assert refuse_arrays(model(**changes), model()) == reason
    assert refuse_arrays(stored(tmp_path / "m", model(**changes)), model()) == reason


@pytest.mark.parametrize(
    ("variance", "reason"), [(0.0, None), (-1e-30, "tensor `norm.running_var` holds variances below zero")]
)
def test_variances_are_not_negative(tmp_path, variance, reason):
    reference = record(norm__running_mean=np.float32([-1]), norm__running_var=np.float32([1]))
    update = record(norm__running_mean=np.float32([-2]), norm__running_var=np.float32([variance]))
    assert refuse_arrays(update, reference) == reason
    assert refuse_arrays(stored(tmp_path / "m", update), reference) == reason


def test_the_order_of_tensors_is_not_looked_at():
    turned = record(**{name.replace(".", "__"): array.numpy() for name, array in reversed(model().items())})
    assert refuse_arrays(turned, model()) is None


def past(examples=10, digest="d", number=1, norm=1.0, site="a"):
    return Past(site, number, examples, norm, digest)


@pytest.mark.parametrize(
    ("declared", "counted", "reason"),
    [
        (1000, [], None),
        (100, [10], None),
        (101, [10], "it declares 101 training images; in its last 1 rounds it declared 10, and"),
        (101, [10, 10, 500], "it declares 101 training images; in its last 3 rounds it declared 10, and"),
        (1, [500], None),
    ],
)
def test_growth(declared, counted, reason):
    said = refuse_growth(declared, [past(examples) for examples in counted], 10)
    assert said is None if reason is None else said.startswith(reason)


def test_more_than_any_update_may_declare():
    assert refuse_examples(11, 20, most=10) == "it declares 11 training images; `run.admission.most_examples` is 10"
    assert refuse_examples(10, 20, most=10) is None


def test_replays():
    assert refuse_replay("abc", None) is None
    assert "round 3" in refuse_replay("abc", 3)


def test_size():
    assert refuse_size(model(), model()) is None
    assert "bytes of numbers" in refuse_size(model(head=np.zeros(2**20, np.float32)), model())


def test_all_rules_together(tmp_path):
    survey = {"bad": {"train": 10, "validation": 4, "test": 90}}
    good, bad = stored(tmp_path / "1", model()), stored(tmp_path / "2", model(steps=None))
    assert refuse(Landed(good, good_metrics(), survey), model()) is None
    assert refuse(Landed(good, good_metrics()), model()) is None
    for landed, rule, reason in [
        (Landed(good, {}, survey), "numbers", "lacks"),
        (Landed(good, good_metrics(30), survey), "examples", "declares 30"),
        (Landed(bad, good_metrics(), survey), "tensors", "missing steps"),
        (Landed(good, good_metrics(200), past=[past()]), "growth", "declares 200"),
        (Landed(good, good_metrics(), earlier=4), "replay", "round 4"),
    ]:
        found = refuse(landed, model())
        assert found.rule == rule
        assert reason in found.reason


@pytest.mark.parametrize("count", [10**400, -(10**400), 2**53 + 2])
def test_counts_that_no_number_can_hold(count):
    assert refuse_metrics(good_metrics(count)) in {"num-examples is not a finite number", "num-examples is no count"}


def test_rules_that_are_off(tmp_path):
    rules = AdmissionConfig(finite=False, surveyed=False, count_growth=None)
    endless = stored(tmp_path / "1", model(conv__bias=np.float32([0, np.nan])))
    landed = Landed(endless, good_metrics(200), {"bad": {"train": 20}}, [past()])
    assert refuse(landed, model(), rules) is None
    assert refuse(landed, model()).rule == "examples"
    assert refuse(landed, model(), rules.model_copy(update={"finite": True})).rule == "finite"
    behind = good_metrics(200, **{BEHIND: 3})  # whoever says to be a relay is not let off
    assert refuse(Landed(stored(tmp_path / "2", model()), behind, None, [past()]), model()).rule == "growth"
