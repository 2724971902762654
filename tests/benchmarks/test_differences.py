"""Which pairs of a table's rows are compared, and that a diverged seed is not passed over."""

import numpy as np
import pytest

from benchmarks.paper.differences import differences
from benchmarks.paper.protocol import Protocol
from benchmarks.paper.table_rows import Row
from tests.server.comparison.test_paired import score

PLAN = Protocol("some_images", rows={"fedwon": (2, 32), "fedavg": (32,), "fedbn": (2, 32)}, rounds=1, tune_rounds=1)


def row(variant, batch, share, *, diverged=()):
    """Three seeds of two domains, about so many images right; validation says the same."""
    scores = {}
    for seed in (1, 2, 3):
        rng = np.random.default_rng([seed, batch])
        found = {name: score(rng.random(400) < share, [200, 200]) for name in ("left", "right")}
        scores[seed] = None if seed in diverged else found
    return Row(variant, batch, "0.1 | off", scores, None if diverged else share)


@pytest.fixture
def lines():
    def found(*rows, plan=PLAN):
        return [line for line in differences(plan, rows) if line.startswith("| ") and "points" not in line]

    return found


def test_best_batches_first_and_then_the_same(lines):
    rows = [row("fedwon", 2, 0.9), row("fedwon", 32, 0.7), row("fedavg", 32, 0.6), row("fedbn", 2, 0.3)]
    best, equal = lines(*rows)[:2], lines(*rows)[2:]
    assert [line.split(" | ")[0] for line in best] == ["| fedavg, batch 32", "| fedbn, batch 2"]
    assert all(line.endswith("| better |") for line in best)
    # FedBN at 2 stands above already
    assert [line.split(" | ")[:3] for line in equal] == [["| 32", "fedwon", "fedavg"]]


def test_a_pair_is_told_once(lines):
    assert len(lines(row("fedwon", 32, 0.9), row("fedavg", 32, 0.6))) == 1


def test_the_sign_and_the_verdict_follow_the_scores(lines):
    (line,) = lines(row("fedwon", 32, 0.5), row("fedavg", 32, 0.9))
    assert float(line.split(" | ")[1]) < -30
    assert line.endswith("| worse |")


@pytest.mark.parametrize("which", ["fedwon", "fedbn"])
def test_a_row_with_a_diverged_seed_is_not_measured_by_the_others(lines, which):
    seeds = {which: (2,)}
    rows = [row("fedwon", 32, 0.9), row("fedbn", 32, 0.8)]
    rows += [row(name, 2, 0.9, diverged=seeds.get(name, ())) for name in ("fedwon", "fedbn")]
    (line,) = (line for line in lines(*rows) if line.startswith("| 2 |"))
    assert line == f"| 2 | fedwon | fedbn | {which} diverged with 1 of 3 seeds | - | - | - |"


def test_the_form_with_the_constant_stands_in_where_the_recipe_was_not_run(lines):
    rows = [row("fedwon", 32, 0.9), row("fedwon_constant", 2, 0.8), row("fedbn", 2, 0.4), row("fedbn", 32, 0.9)]
    assert any(line.startswith("| 2 | fedwon (listing and ReLU constant) | fedbn | +") for line in lines(*rows))


def test_nothing_to_compare_says_nothing(lines):
    assert differences(PLAN, []) == []
    assert differences(PLAN, [row("fedwon", 32, 0.9)]) == []
    assert differences(PLAN, [row("fedwon", 32, 0.9), row("fedbn", 2, 0.5, diverged=(1, 2, 3))]) == []
