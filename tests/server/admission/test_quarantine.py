"""Refused updates from the round that refused them to the operator's commands, and sites that are suspended."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord

from fedwon.common.errors import Refused, StaysRefused
from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.admission import quarantine
from fedwon.server.admission.quarantine import listing, release
from fedwon.server.admission.rows import AdmittedRow, QuarantineRow
from fedwon.server.admission.suspension import resume, suspend, suspended
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.auditing import trail
from fedwon.server.identity import sites
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home
from fedwon.server.store import now
from tests.server.rounds.test_strategy import in_turn, reasons, silent, start, states, wide
from tests.server.secure.secure_kit import secure_run
from tests.server.server_kit import (
    CLASSES,
    FakeGrid,
    answering,
    good_metrics,
    rows,
    same,
    shifted,
    small_run,
)

HONEST = {"a": answering(0.10), "b": answering(0.11), "c": answering(0.12)}


def altered(change):
    """A site whose good answer is changed before it is sent."""

    def site(message, name):
        content = answering(0.1)(message, name)
        return change(content) or content

    return site


def tensor(values):
    def change(content):
        arrays = ArrayRecord(dict(content["arrays"].items()))
        name = next(iter(arrays))
        arrays[name] = Array(ndarray=values(np.array(arrays[name].numpy())))
        content["arrays"] = arrays

    return altered(change)


def first(value):
    def values(array):
        array.reshape(-1)[0] = value
        return array

    return values


def counting(**metrics):
    return altered(lambda content: content.update({"metrics": MetricRecord(good_metrics() | metrics)}))


def moved(by):
    return answering(by)


BAD = {
    "nan": tensor(first(np.nan)),
    "infinite": tensor(first(-np.inf)),
    "shape": tensor(lambda array: array[..., None]),
    "flat": tensor(lambda array: array.reshape(-1)),
    "type": tensor(lambda array: array.astype(np.int32)),
    "too wide": tensor(lambda array: np.zeros((4000, *array.shape), array.dtype)),
    "missing tensor": altered(
        lambda content: content.update({"arrays": ArrayRecord(dict(list(content["arrays"].items())[1:]))})
    ),
    "further tensor": altered(
        lambda content: content.update(
            {"arrays": ArrayRecord({**content["arrays"], "more": Array(ndarray=np.zeros(3, np.float32))})}
        )
    ),
    "negative count": counting(**{"num-examples": -10}),
    "no images": counting(**{"num-examples": 0}),
    "half a count": counting(**{"num-examples": 10.5}),
    "endless count": counting(**{"num-examples": math.inf}),
    "nan count": counting(**{"num-examples": math.nan}),
    "inflated count": counting(**{"num-examples": 10**9}),
    "inflated a little": counting(**{"num-examples": 15}),
    "inflated validation": counting(**{"validation-examples": 2**53, "validation-correct": 2**53}),
    "inflated test": counting(**{"test-examples": 15, "test-correct": 15, "test-loss": 0.0}),
    "scaled": moved(50.0),
    "scaled the other way": moved(-50.0),
    "endless number": moved(1e37),
}
SURVEYS = {site: {"bad": {"train": 10, "validation": 4}} for site in (*HONEST, "x")}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_does_not_move_the_model_by_a_bit(make_run, store, kind):
    run = make_run()
    initial = run.last()[1]
    start(run, FakeGrid({**HONEST, "x": BAD[kind]}, SURVEYS))
    steps = {"a": 0.10, "b": 0.11, "c": 0.12}
    assert same(run.last()[1], average([Update(site, 10, shifted(initial, by)) for site, by in steps.items()]))
    kept = rows(store, QuarantineRow)
    assert [(row.site, row.round) for row in kept] == [("x", 1)]
    assert all(row.reason and (run.quarantine / row.file).exists() for row in kept)
    assert all(bool(row.file) == (kind != "too wide") for row in kept)
    assert {row.site for row in rows(store, AdmittedRow)} == {"a", "b", "c"}


def test_counts_that_grow_from_one_round_to_the_next(make_run, store):
    surveys = {"a": {"bad": {"train": 10**6, "validation": 4}}}
    run = make_run(rounds=2)
    grid = FakeGrid({"a": in_turn(answering(0.1, 10), answering(0.1, 200)), "b": answering(0.2)}, surveys)
    start(run, grid, rounds=2)
    assert [row.rule for row in rows(store, QuarantineRow)] == ["growth"]


def test_the_bits_of_an_earlier_round(make_run, store):
    run, kept = make_run(rounds=3), []

    def replaying(message, name):
        kept.append(answering(0.1)(message, name))
        return kept[0]

    start(run, FakeGrid({"a": replaying, "b": answering(0.2)}), rounds=3)
    assert [(row.rule, row.round) for row in rows(store, QuarantineRow)] == [("replay", 2), ("replay", 3)]


def test_a_sign_flip_among_many(store, tmp_path):
    config = small_run().model_copy(update={"admission": AdmissionConfig(cosine=-0.2)})
    grid = FakeGrid({**HONEST, "d": answering(0.13), "x": moved(-0.1)})
    start(Run.create(store, tmp_path, config, CLASSES), grid)
    assert reasons(store)["x"].startswith("it moves the model against the others: the cosine to their mean direction")
    assert grid.said[-2:] != []


def test_a_round_that_comparing_leaves_too_small_is_repeated(make_run, store):
    run = make_run(minimum=3, quorum=3)
    grid = FakeGrid({"a": answering(0.1), "b": answering(0.1), "x": in_turn(moved(50.0), moved(0.1))})
    start(run, grid)
    assert grid.asked[:2] == [["a", "b", "x"], ["x"]]
    assert states(store) == dict.fromkeys("abx", "averaged")


def test_honest_sites_that_pull_against_one_another_all_count(make_run, store):
    grid = FakeGrid({**HONEST, "d": answering(0.13), "x": moved(-0.1)})
    start(make_run(), grid)
    assert {row.site for row in rows(store, AdmittedRow)} == {*HONEST, "d", "x"}
    assert rows(store, QuarantineRow) == []


def test_admission_that_is_off(store, tmp_path):
    off = AdmissionConfig(finite=False, surveyed=False, count_growth=None, norm=None, own_norm=None)
    config = small_run().model_copy(update={"admission": off.model_copy(update={"replays": False})})
    run = Run.create(store, tmp_path, config, CLASSES)
    initial = run.last()[1]
    start(run, FakeGrid({"a": answering(0.1), "b": answering(0.1), "x": moved(50.0)}))
    assert same(
        run.last()[1],
        average([Update(site, 10, shifted(initial, by)) for site, by in (("a", 0.1), ("b", 0.1), ("x", 50.0))]),
    )
    assert rows(store, QuarantineRow) == []


def test_relays_and_late_updates_pass(make_run, store):
    late = in_turn(silent, answering(0.3), answering(0.3))
    run = make_run(rounds=3, late_rounds=2)
    start(run, FakeGrid({**HONEST, "l": late, "w": wide}), rounds=3)
    assert rows(store, QuarantineRow) == []
    assert set(states(store).values()) == {"averaged"}


# ---- the operator


def refused_run(home: Home, behaviour=None, rounds=1, **settings) -> Run:
    """A run in which site x is refused in round 1; it has not finished."""
    run = Run.create(home.store, home.folder, small_run(rounds=9, **settings), CLASSES)
    start(run, FakeGrid({**HONEST, "x": behaviour or in_turn(moved(50.0), moved(0.2), moved(0.2))}), rounds=rounds)
    return run


def test_what_an_operator_sees(home, typed):
    assert "no update" in typed("quarantine", "list")
    run = refused_run(home)
    task = f"{run.id}.r0001.train.x"
    assert task in typed("quarantine", "list")
    [row] = json.loads(typed("quarantine", "list", "--json"))["quarantine"]
    assert (row["task"], row["site"], row["rule"], row["state"]) == (task, "x", "norm", "held")
    assert json.loads(typed("quarantine", "list", "--run", "other", "--json"))["quarantine"] == []
    shown = json.loads(typed("quarantine", "show", "r0001.train.x", "--json"))
    assert shown["metrics"]["num-examples"] == 10
    assert shown["norm"] > 100
    assert len(shown["moved_most"]) == quarantine.SHOWN
    assert "moved_most" in typed("quarantine", "show", task)
    with pytest.raises(StaysRefused, match="No update in quarantine"):
        typed("quarantine", "show", "r0002.train.x")
    assert [line["action"] for line in trail(home.store, site="x")] == ["refused: update"]


def test_a_released_update_counts_once_as_a_late_one(home, typed):
    run = refused_run(home)
    model, begun = run.last()[1], run.model(0)
    said = json.loads(typed("quarantine", "release", f"{run.id}.r0001.train.x", "--reason", "new camera", "--json"))
    assert said["state"] == "released"
    start(run, FakeGrid({"a": answering(0.1), "x": answering(0.2)}), done=1)
    expected = average(
        [
            Update("a", 10, shifted(model, 0.1)),
            Update("x", 10, shifted(begun, 50.0), rounds_late=1),
            Update("x", 10, shifted(model, 0.2)),
        ],
        staleness=run.config.aggregation.staleness,
    )
    np.testing.assert_allclose(
        next(iter(run.last()[1].values())).numpy(), next(iter(expected.values())).numpy(), rtol=1e-6
    )
    assert json.loads((run.folder / "round-0002.json").read_text())["sites"] == ["a", "x"]
    [row] = listing(home.store, home.folder)
    assert row["state"] == "counted"
    after = run.last()[1]
    start(run, FakeGrid({"a": answering(0.1)}), done=2)
    assert same(run.last()[1], shifted(after, 0.1))
    with pytest.raises(StaysRefused, match="was released and has counted"):
        release(home.store, home.folder, row["task"])
    assert [line["action"] for line in trail(home.store, site="x")] == ["refused: update", "update released"]


def released_then(run, behaviour):
    """A site that answers a second time, to a task of which its first answer was let out meanwhile."""

    def site(message, name):
        release(run.store, run.folder.parent.parent, "r0001.train.x")
        return behaviour(message, name)

    return site


def test_a_site_counts_once_for_a_task_whose_first_answer_was_released(make_run, store):
    run = make_run(minimum=2, quorum=2)
    begun = run.last()[1]
    start(
        run, FakeGrid({"a": answering(0.1), "x": in_turn(answering(0.3, 15), released_then(run, moved(0.2)))}, SURVEYS)
    )
    assert same(run.last()[1], average([Update("a", 10, shifted(begun, 0.1)), Update("x", 10, shifted(begun, 0.2))]))
    [row] = rows(store, QuarantineRow)
    assert row.state == "gone"
    assert trail(store, site="x")[-1]["action"] == "released update not used"
    assert "its later answer to the same task counts" in trail(store, site="x")[-1]["detail"]


def test_what_was_released_stays_so_though_the_site_is_refused_for_the_task_again(make_run, store):
    run = make_run(minimum=3, quorum=2)
    begun = run.last()[1]
    refused_twice = in_turn(answering(0.3, 15), released_then(run, answering(0.4, 16)))
    failing = in_turn(lambda message, name: "data: gone", answering(0.2))
    start(run, FakeGrid({"a": answering(0.1), "b": failing, "x": refused_twice}, SURVEYS))
    made = {"a": (10, 0.1), "b": (10, 0.2), "x": (15, 0.3)}
    assert same(run.last()[1], average([Update(site, count, shifted(begun, by)) for site, (count, by) in made.items()]))
    [row] = rows(store, QuarantineRow)
    assert (row.state, "declares 15" in row.reason) == ("counted", True)
    actions = [line["action"] for line in trail(store, site="x")]
    assert actions == ["refused: update", "update released", "refused: update"]


def test_the_bits_of_an_update_that_was_released_are_not_new(home):
    run = refused_run(home)
    release(home.store, home.folder, f"{run.id}.r0001.train.x")
    begun = run.model(0)

    def replaying(message, name):
        content = moved(0.1)(message, name)
        content["arrays"] = shifted(begun, 50.0)
        return content

    start(run, FakeGrid({"a": answering(0.1), "x": answering(0.2)}), done=1)
    start(run, FakeGrid({"a": answering(0.1), "x": replaying}), done=2)
    assert "update of round 1" in reasons(home.store)["x"]
    kept = {(row.site, row.round): row.norm for row in rows(home.store, AdmittedRow)}
    assert kept["x", 1] is None  # how far it went is no measure for others


def test_what_cannot_be_released(home, monkeypatch):
    refused_run(home, tensor(first(np.nan)))
    with pytest.raises(StaysRefused, match="cannot count, whoever says so: tensor"):
        release(home.store, home.folder, "train.x")
    run = refused_run(home, counting(**{"num-examples": 0}))
    with pytest.raises(StaysRefused, match="2 updates in quarantine"):
        release(home.store, home.folder, "train.x")
    with pytest.raises(StaysRefused, match="cannot count, whoever says so: it declares no training image"):
        release(home.store, home.folder, f"{run.id}.r0001.train.x")


def test_a_masked_update_is_not_released(home):
    run = refused_run(home)
    run.reconfigure(secure_run())
    with pytest.raises(StaysRefused, match="is masked, and its masks come off in its own round's sum only"):
        release(home.store, home.folder, f"{run.id}.r0001.train.x")
    assert listing(home.store, home.folder)[0]["state"] == "held"


def test_what_comes_too_late(home):
    run = refused_run(home)
    task, file = f"{run.id}.r0001.train.x", run.quarantine / f"{run.id}.r0001.train.x.safetensors"
    run.model_path(0).unlink()
    with pytest.raises(StaysRefused, match="starts from the model of round 0, which is not kept"):
        release(home.store, home.folder, task)
    file.unlink()
    with pytest.raises(StaysRefused, match="is not kept any more"):
        release(home.store, home.folder, task)
    assert listing(home.store, home.folder)[0]["file"] is None
    run.finish("finished")
    with pytest.raises(StaysRefused, match="has finished"):
        release(home.store, home.folder, task)


def test_a_released_file_that_was_changed_is_not_used(home):
    run = refused_run(home)
    release(home.store, home.folder, f"{run.id}.r0001.train.x")
    file = run.quarantine / f"{run.id}.r0001.train.x.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    before = run.last()[1]
    start(run, FakeGrid({"a": answering(0.1)}), done=1)
    assert same(run.last()[1], shifted(before, 0.1))
    assert listing(home.store, home.folder)[0]["state"] == "gone"


def test_a_relays_updates_are_not_released(home, typed):
    (home.folder / "parent").mkdir()
    with pytest.raises(StaysRefused, match="is a relay"):
        typed("quarantine", "release", "train.x")


# ---- suspended sites


def test_a_suspended_site_is_not_asked(home, typed):
    for site in ("a", "x"):
        sites.enrolled(home.store, site, now())
    with pytest.raises(Refused, match="No site"):
        typed("sites", "suspend", "nobody")
    assert "suspended" in typed("sites", "suspend", "x", "--reason", "camera is dirty")
    assert suspended(home.store) == {"x": "camera is dirty"}
    assert "x is suspended: camera is dirty" in typed("sites")
    run = Run.create(home.store, home.folder, small_run(rounds=2), CLASSES)
    grid = FakeGrid({"a": answering(0.1), "x": answering(0.1)})
    start(run, grid)
    assert json.loads(typed("sites", "resume", "x", "--json"))["suspended"] is False
    start(run, grid, done=1)
    assert [asked for asked in grid.asked if asked] == [["a"], ["a", "x"]]
    with pytest.raises(Refused, match="not suspended"):
        resume(home.store, "x")
    assert [line["action"] for line in trail(home.store, site="x")][-2:] == ["site suspended", "site resumed"]


def test_what_a_site_sends_after_its_suspension_does_not_count(make_run, store):
    run = make_run()

    def site(message, name):
        suspend(store, "x", "in the middle", actor="")
        return answering(0.4)(message, name)

    before = run.last()[1]
    start(run, FakeGrid({"a": answering(0.1), "x": site}))
    assert same(run.last()[1], shifted(before, 0.1))
    assert reasons(store)["x"] == "the site is suspended: in the middle"


def test_who_is_refused_again_and_again_is_suspended(store, tmp_path):
    config = small_run(rounds=3).model_copy(update={"admission": AdmissionConfig(suspend_after=2)})
    run = Run.create(store, tmp_path, config, CLASSES)
    grid = FakeGrid({**HONEST, "x": tensor(first(np.nan))})
    start(run, grid, rounds=3)
    assert [len(asked) for asked in grid.asked if asked] == [4, 4, 3]
    assert "2 of its updates were refused" in suspended(store)["x"]


def test_who_is_asked_again_begins_anew(store, tmp_path):
    config = small_run(rounds=4).model_copy(update={"admission": AdmissionConfig(suspend_after=2)})
    run = Run.create(store, tmp_path, config, CLASSES)
    grid = FakeGrid({**HONEST, "x": tensor(first(np.nan))})
    start(run, grid, rounds=2)
    assert list(suspended(store)) == ["x"]
    resume(store, "x", actor="maria")
    start(run, grid, done=2)
    assert suspended(store) == {}
    start(run, grid, done=3)
    assert "2 of its updates were refused" in suspended(store)["x"]


def test_who_counts_between_is_not_suspended(store, tmp_path):
    config = small_run(rounds=4).model_copy(update={"admission": AdmissionConfig(suspend_after=2)})
    run = Run.create(store, tmp_path, config, CLASSES)
    bad = tensor(first(np.nan))
    start(run, FakeGrid({**HONEST, "x": in_turn(bad, answering(0.1), bad, answering(0.1))}), rounds=4)
    assert suspended(store) == {}


def test_the_record_is_pruned_with_the_history(store, tmp_path):
    retention = small_run().retention.model_copy(update={"history": 10, "rounds": 2})
    config = small_run(rounds=30).model_copy(update={"retention": retention})
    run = Run.create(store, tmp_path, config, CLASSES)
    bad = tensor(first(np.nan))
    start(run, FakeGrid({"a": answering(0.001), "x": in_turn(*[bad] * 4, *[answering(0.001)] * 17)}), rounds=21)
    kept = {row.round for row in rows(store, AdmittedRow)}
    assert 3 not in kept
    assert rows(store, QuarantineRow) == []
    assert {15, 20, 21} <= kept
