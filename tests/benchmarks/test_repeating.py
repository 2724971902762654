"""A kept run, run again: the same on the same machine, and whatever differs is told."""

import copy
import json

import numpy as np
import pytest

from benchmarks.paper.repeating import AGAIN, repeat, side_by_side
from benchmarks.paper.running import run
from benchmarks.paper.spec import Spec, result_path
from fedwon.common.errors import RunMissing
from tests.benchmarks.test_paper import paper
from tests.server.comparison.test_paired import score

SPEC = Spec("magnetic_tile", "fedwon", 8, 0.1, 0.16, 1)


def result(right, **versions):
    """Of one domain with two classes of five images."""
    tested = {"exp1": {"test": score(np.array(right, dtype=bool), [5, 5]), "validation": score([1] * 10, [10])}}
    return {"failed": None, "scores": {"40": tested}, "versions": {"torch": "2", **versions}}


def test_the_metric_the_images_and_what_changed():
    kept, here = result([1] * 5 + [0] * 5), result([1] * 5 + [1, 1, 0, 0, 0], instructions="AVX2")
    assert side_by_side(SPEC, kept, here) == {
        "run": "magnetic_tile/fedwon-b8-lr0.1-c0.16-seed1",
        "kept": 50.0,
        "here": 70.0,  # mean of 100 % and 40 %
        "alike": 80.0,
        "changed": {"instructions": ["not noted", "AVX2"]},
    }


def test_a_run_that_diverged_here_only():
    broken = {**copy.deepcopy(result([1] * 10)), "failed": "not finite", "scores": {}}
    found = side_by_side(SPEC, result([1] * 10), broken)
    assert (found["kept"], found["here"], found["alike"]) == (100.0, None, None)


def test_what_was_never_run_cannot_be_repeated(tmp_path):
    with pytest.raises(RunMissing, match="No result of magnetic_tile"):
        repeat(SPEC, results=tmp_path, checkpoints=tmp_path)


def test_an_earlier_repeat_is_not_told_again(tmp_path, monkeypatch):
    path = result_path(SPEC, tmp_path / "kept")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result([1] * 10)), encoding="utf-8")
    made = result_path(SPEC, tmp_path / AGAIN / "results")

    def fresh(spec, *, results, checkpoints):
        assert not made.exists()
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
        return result([1] * 5 + [0] * 5)

    monkeypatch.setattr("benchmarks.paper.repeating.run", fresh)
    for _ in range(2):
        assert repeat(SPEC, results=tmp_path / "kept", checkpoints=tmp_path)["here"] == 50.0


def test_asking_for_what_is_not_kept_is_an_error_that_says_so(tmp_path):
    paper(tmp_path, tmp_path, "again", "--protocol", "magnetic_tile", fails=RunMissing)


@pytest.mark.data
def test_on_the_same_machine_it_is_the_same_to_the_image(tmp_path, image_sets, monkeypatch):
    monkeypatch.setenv("FEDWON_DATA", str(image_sets))
    trial = Spec("magnetic_tile", "fedwon", 8, 0.05, None, 101, 1)
    first, second = (
        run(trial, results=tmp_path / name / "results", checkpoints=tmp_path / name) for name in ("first", "second")
    )
    assert second["scores"] == first["scores"]
    assert second["validation"] == first["validation"]
    found = side_by_side(trial, as_tested(first), as_tested(second))
    assert found["alike"] == 100.0
    assert found["kept"] == found["here"]
    assert found["changed"] == {}


def as_tested(found):
    """Validation images in the place of test images, which a trial never opens."""
    scores = {"1": {name: {**site, "test": site["validation"]} for name, site in found["scores"]["1"].items()}}
    return {**found, "scores": scores}
