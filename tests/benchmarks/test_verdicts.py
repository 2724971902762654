"""What the page says of the claim: it has to follow from the results, whichever way they point."""

import json

import numpy as np
import pytest

from benchmarks.paper.forms import forms
from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.report import section
from benchmarks.paper.spec import Spec, result_path
from benchmarks.paper.tuning import trials
from benchmarks.paper.verdicts import RIVALS, SETS, summary
from tests.server.comparison.test_paired import score

BATCHES = {
    "digits": 32,
    "digits_small": 32,
    "digits_many": 32,
    "office": 32,
    "pacs": 16,
    "magnetic_tile": 8,
    "magnetic_tile_each": 8,
}


def write(results, spec, found):
    path = result_path(spec, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")


def images(share, seed):
    """Test scores of three domains, about so many images right."""
    rng = np.random.default_rng(seed)
    return {name: score(rng.random(400) < share, [200, 200]) for name in ("left", "middle", "right")}


def results_of(folder, protocol, shares, seeds=(1, 2, 3)):
    """Tuned rows whose runs classify these shares of the test images rightly."""
    batch = BATCHES[protocol]
    for variant, share in shares.items():
        for lr in PROTOCOLS[protocol].rates(batch):
            for spec in trials(protocol, variant, batch, lr):
                good = 9 if lr == 0.1 else 1
                scores = {"1": {"left": {"validation": score([1] * good + [0] * (10 - good), [10])}}}
                write(folder, spec, {"scores": scores})
        for seed in seeds:
            tested = {name: {"test": found, "validation": found} for name, found in images(share, seed).items()}
            result = {
                "seed": seed,
                "failed": None,
                "scores": {"40": tested},
                "config": {"training": {"lr": 0.1, "clipping": None}},
            }
            write(folder, Spec(protocol, variant, batch, 0.1, None, seed), result)


@pytest.mark.parametrize(
    ("shares", "verdicts", "conclusion"),
    [
        ({"fedwon": 0.9, "fedavg": 0.6, "fedbn": 0.7}, ["better", "better"], "on 1 of 4 sets (Digits-Five)"),
        ({"fedwon": 0.9, "fedavg": 0.6, "fedbn": 0.9}, ["better", "undecided"], "on none of 4 sets."),
        (
            {"fedwon": 0.5, "fedavg": 0.6, "fedbn": 0.9},
            ["worse", "worse"],
            "behind fedavg on Digits-Five, fedbn on Digits-Five.",
        ),
    ],
)
def test_a_set_counts_only_if_both_rivals_are_beaten(tmp_path, shares, verdicts, conclusion):
    results_of(tmp_path, "digits", shares)
    page = summary(tmp_path)
    for rival, verdict in zip(RIVALS, verdicts, strict=True):
        assert any(line.startswith(f"| digits | {rival}") and f"**{verdict}**" in line for line in page.splitlines())
    assert conclusion in next(line for line in page.splitlines() if line.startswith("**FedWon is ahead"))
    assert "without it: FedWon is ahead of both, with intervals that exclude zero, on none of 4 sets" in page
    assert "| office | fedbn | not run yet |" in page


def test_the_baselines_as_published_are_counted_apart(tmp_path):
    shares = {"fedwon": 0.9, "fedavg": 0.9, "fedbn": 0.9, "fedavg_unclipped": 0.5, "fedbn_unclipped": 0.6}
    results_of(tmp_path, "digits", shares)
    first, second = (line for line in summary(tmp_path).splitlines() if "FedWon is ahead" in line)
    assert "on none of 4 sets" in first
    assert "on 1 of 4 sets (Digits-Five)" in second


def test_one_seed_decides_nothing(tmp_path):
    results_of(tmp_path, "digits", {"fedwon": 0.9, "fedavg": 0.3, "fedbn": 0.3}, seeds=(1,))
    assert "on none of 4 sets" in summary(tmp_path)


def test_all_sets(tmp_path):
    for protocols in SETS.values():
        results_of(tmp_path, protocols[0], {"fedwon": 0.9, "fedavg": 0.5, "fedbn": 0.6})
    assert "**FedWon is ahead of both on all 4 sets, with intervals that exclude zero.**" in summary(tmp_path)


def test_the_recipe_stands_beside_the_forms_that_were_tuned(tmp_path):
    results_of(tmp_path, "digits", {"fedwon": 0.9, "fedwon_paper": 0.9})
    results_of(tmp_path, "pacs", {"fedwon": 0.9})
    (row,) = (line for line in forms(tmp_path).splitlines() if line.startswith(("| digits ", "| pacs ")))
    assert row == "| digits | 32 | 90.0 / 89.3 | - / - | - / - | 90.0 / 89.3 |"


def test_a_table_names_what_is_missing(tmp_path):
    results_of(tmp_path, "digits_small", {"fedwon": 0.9, "fedavg": 0.5})
    text = section("digits_small", ["digits_small"], tmp_path)
    assert "| fedwon | 32 | 0.1 | off | 1, 2, 3 |" in text
    missing = next(line for line in text.splitlines() if line.startswith("Not run yet"))
    assert "fedbn at 32" in missing
    assert "fedavg at 32" not in missing
