"""Updates compared with one another: norms and directions against slow twins, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.admission.outliers import Candidate, refuse_outliers
from fedwon.server.admission.rules import Past
from fedwon.server.aggregation import differences
from fedwon.server.aggregation.differences import Change, cosines, norm, norms_by_tensor
from tests.server.server_kit import record, stored

RULES = AdmissionConfig(cosine=-0.2, cosine_sites=4)


def layers(values):
    """A record of two floating-point tensors and a counter."""
    values = np.asarray(values, np.float32)
    return record(w=values[:4].reshape(2, 2), b=values[4:], n=np.int64(3))


def changes(count, seed, size=9):
    rng = np.random.default_rng(seed)
    start = layers(rng.normal(size=size))
    return [Change(layers(rng.normal(size=size)), start) for _ in range(count)]


def plain(change):
    """The whole difference as one vector: the obvious way."""
    names = [name for name in change.update if name != "n"]
    return np.concatenate(
        [
            (change.update[name].numpy().astype(float) - change.start[name].numpy().astype(float)).ravel()
            for name in names
        ]
    )


def slow_cosine(all_changes, index):
    units = [plain(change) / np.linalg.norm(plain(change)) for change in all_changes]
    others = sum(unit for number, unit in enumerate(units) if number != index)
    return float(units[index] @ others / np.linalg.norm(others))


@given(count=st.integers(2, 6), seed=st.integers(0, 99), cells=st.sampled_from([1, 7, 2**20]))
def test_the_obvious_ones(count, seed, cells):
    made = changes(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(differences, "CELLS", cells)
        norms = [norm(change) for change in made]
        found = cosines(made, norms)
    np.testing.assert_allclose(norms, [np.linalg.norm(plain(change)) for change in made], rtol=1e-12)
    np.testing.assert_allclose(found, [slow_cosine(made, index) for index in range(count)], rtol=1e-7, atol=1e-9)


def test_what_has_no_direction():
    still, far = changes(1, 1)[0].start, changes(3, 1)
    with_still = [Change(still, still), *far]
    found = cosines(with_still, [norm(change) for change in with_still])
    assert found[0] == 0
    np.testing.assert_allclose(found[1:], [slow_cosine(far, index) for index in range(3)], rtol=1e-7)
    endless = Change(layers([np.inf] * 9), still)
    assert norm(endless) == np.inf
    assert np.isnan(norm(Change(layers([np.nan] * 9), still)))
    assert cosines([endless, *far], [np.inf, *map(norm, far)])[0] == 0


def test_the_tensors_that_changed_most_come_first():
    start = layers(np.zeros(9))
    change = Change(layers([1, 0, 0, 0, 0, 0, 0, 3, 4]), start)
    assert norms_by_tensor(change) == {"b": 5.0, "w": 1.0}
    assert list(norms_by_tensor(change)) == ["b", "w"]


def test_memory_does_not_grow_with_the_sites(tmp_path, monkeypatch):
    monkeypatch.setattr(differences, "CELLS", 2**14)
    rng = np.random.default_rng(0)
    start = stored(tmp_path / "start", record(w=rng.normal(size=2**16).astype(np.float32)))
    made = [
        Change(stored(tmp_path / f"{site}", record(w=rng.normal(size=2**16).astype(np.float32))), start)
        for site in range(16)
    ]
    norms = [norm(change) for change in made]
    peaks = {}
    for count in (2, 16):
        tracemalloc.start()
        cosines(made[:count], norms[:count])
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[16] < 1.5 * peaks[2] + 200_000


def candidates(vectors, examples=10):
    start = layers(np.zeros(9))
    made = []
    for number, vector in enumerate(vectors):
        change = Change(layers(vector), start)
        made.append(Candidate(f"s{number}", examples, change, norm(change)))
    return made


def near(seed, scale=1.0):
    return scale * (1 + 0.1 * np.random.default_rng(seed).normal(size=9))


def refused(vectors, past=(), rules=RULES, examples=10):
    return {site: one.rule for site, one in refuse_outliers(candidates(vectors, examples), past, rules).items()}


def test_honest_updates_pass():
    assert refused([near(seed, 1 + seed / 3) for seed in range(6)]) == {}


def test_an_update_that_goes_too_far():
    vectors = [near(0), near(1), near(2, 40)]
    assert refused(vectors) == {"s2": "norm"}
    assert refused(vectors[1:]) == {}  # of two, nobody can tell
    assert refused(vectors, rules=AdmissionConfig(norm=None)) == {}
    reason = refuse_outliers(candidates(vectors), (), RULES)["s2"].reason
    assert "the median of 3 sites is" in reason
    assert "`run.admission.norm`" in reason


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_update_that_is_not_finite_goes_too_far(bad):
    assert refused([near(0), near(1), near(2), np.full(9, bad)]) == {"s3": "norm"}


def test_a_site_with_more_images_may_go_further():
    far = candidates([near(0), near(1), near(2)])
    large = candidates([near(3, 20)], examples=90)[0]
    everyone = [*far, Candidate("large", 90, large.change, large.norm)]
    assert refuse_outliers(everyone, (), RULES) == {}
    everyone[-1] = Candidate("large", 10, large.change, large.norm)
    assert list(refuse_outliers(everyone, (), RULES)) == ["large"]


def test_rounds_before_are_part_of_the_measure():
    past = [Past(f"s{site}", number, 10, 3.0, "") for site in range(3) for number in range(3)]
    assert refused([near(0, 40)], past) == {"s0": "norm"}
    assert refused([near(0, 40)], past, AdmissionConfig(norm=None)) == {"s0": "own_norm"}
    assert refused([near(0, 40)], past, AdmissionConfig(norm=None, own_norm=None)) == {}
    assert refused([near(0, 40)], [Past("s9", *one[1:]) for one in map(_fields, past)], AdmissionConfig()) == {}
    assert refused([near(0)], past) == {}
    unmeasured = [Past(one.site, one.round, 10, None, "") for one in past]
    assert refused([near(0, 40)], unmeasured) == {}


def _fields(past):
    return (past.site, past.round, past.examples, past.norm, past.digest)


def test_an_update_that_goes_against_the_others():
    vectors = [near(seed) for seed in range(4)]
    assert refused([*vectors, -near(5)]) == {"s4": "cosine"}
    assert refused([*vectors[:2], -near(5)]) == {}  # too few to tell
    assert refused([*vectors, -near(5)], rules=AdmissionConfig(cosine_sites=4)) == {}  # off by default


def test_who_goes_too_far_does_not_turn_the_direction():
    vectors = [near(0), near(1), near(2), near(3), near(4), -near(5, 1000)]
    assert refused(vectors) == {"s5": "norm"}


def test_updates_that_change_nothing_hide_nobody():
    """Idle sites may be most of them; then those that move the model are compared."""
    idle = [np.zeros(9)] * 4
    assert refused([*idle, near(1)]) == {}
    assert refused([*idle, near(1), near(2), near(3, 40)]) == {"s6": "norm"}
    past = [Past(f"s{site}", 1, 10, norm, "") for site, norm in enumerate([0.0, 0.0, 3.0, 3.0])]
    assert refused([*idle, near(3, 40)], past) == {"s4": "norm"}
    assert refused(idle, past) == refused(idle) == {}


def test_a_site_that_was_idle_mostly_is_compared_with_when_it_was_not():
    only_own = AdmissionConfig(norm=None)
    past = [Past("s0", number, 10, norm, "") for number, norm in enumerate([0.0, 0.0, 0.0, 3.0])]
    assert refused([near(0, 40)], past, only_own) == {"s0": "own_norm"}
    assert refused([near(0)], past, only_own) == {}
    assert refused([near(0, 40)], past[:3], only_own) == {}
