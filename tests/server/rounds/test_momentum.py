"""Rounds with momentum at the server: what counts, what a kill costs, what sites get, what it goes together with."""

from __future__ import annotations

import numpy as np
import pytest

from fedwon.common.arrays import open_record
from fedwon.common.errors import BrokenFile
from fedwon.common.model_file import network
from fedwon.common.round_settings import RetentionConfig
from fedwon.common.run_config import RunConfig
from fedwon.models import local_names, trainable_names
from fedwon.server.admission.quarantine import release
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.runs.checkpoints import Checkpoints
from fedwon.server.runs.run import Run
from fedwon.server.secure.strategy import SecureFedWon
from fedwon.server.store import AuditRow, RoundRow
from tests.server.admission.test_quarantine import refused_run
from tests.server.rounds.test_strategy import in_turn, silent, start
from tests.server.secure.secure_kit import Sites, secure_run
from tests.server.server_kit import FakeGrid, answering, rows, same, shifted, small_run

MOMENTUM = {"server_momentum": 0.5}
DISAGREEING = {"a": answering(0.1, 30), "b": answering(-0.1, 10)}
"""Sites whose mean moves the model by 0.05 a round."""


def files(run, pattern):
    return {path.name: path.read_bytes() for path in sorted(run.folder.glob(pattern))}


def arrays(record):
    return {name: array.numpy() for name, array in record.items()}


def trained(run, rounds=3):
    """A whole run whose sites disagree."""
    grid = FakeGrid(dict(DISAGREEING))
    start(run, grid, rounds=rounds)
    return run


def slow_rounds(first, shifts, momentum, lr):
    """Models of a run whose mean moves each round by so much: model after model, number by number in NumPy."""
    model = {name: values.astype(np.float32) for name, values in first.items()}
    velocity = {name: np.zeros_like(values) for name, values in model.items()}
    for a, b in shifts:
        for name, values in model.items():
            total = np.zeros(values.shape)
            for shift, share in ((a, 0.75), (b, 0.25)):
                total = total + (values + np.float32(shift)).astype(np.float64) * share
            mean = total.astype(np.float32).astype(np.float64)
            velocity[name] = (momentum * velocity[name].astype(np.float64) + (values - mean)).astype(np.float32)
            model[name] = (values.astype(np.float64) - lr * velocity[name].astype(np.float64)).astype(np.float32)
        yield model, velocity


@pytest.mark.parametrize(("momentum", "lr"), [(0.5, 1.0), (0.9, 0.3), (0.0, 0.5)])
def test_a_run_is_the_obvious_one(make_run, momentum, lr):
    run = make_run(rounds=3, aggregation={"server_momentum": momentum, "server_lr": lr})
    first = arrays(run.last()[1])
    trained(run)
    for number, (model, velocity) in enumerate(slow_rounds(first, [(0.1, -0.1)] * 3, momentum, lr), start=1):
        found = arrays(run.model(number))
        assert {name: values.tobytes() for name, values in found.items()} == {
            name: values.tobytes() for name, values in model.items()
        }
        kept = run.checkpoints.velocity(number)
        if momentum == 0:
            assert kept is None
        else:
            assert kept is not None
            assert all(kept[name].numpy().tobytes() == values.tobytes() for name, values in velocity.items())


def test_off_gives_the_bits_of_before(make_run, monkeypatch):
    """Nothing of the step is so much as looked at."""
    from fedwon.server.rounds import next_model

    plain = trained(make_run(rounds=3))
    monkeypatch.setattr(next_model, "step", None)
    monkeypatch.setattr(next_model, "caught_up", None)
    off = trained(make_run(rounds=3, aggregation={"server_momentum": 0.0, "server_lr": 1.0}))
    assert all(same(plain.model(number), off.model(number)) for number in range(4))
    assert files(off, "*.velocity") == {}


def test_the_model_that_sites_get_is_the_one_that_the_step_is_taken_from(make_run):
    """With a lossy codec on the way down as well: what it rounds away of one step, the next does not miss."""
    run = trained(make_run(rounds=3, down="int8", aggregation=MOMENTUM))
    for name, array in run.model(3).items():
        steps = 0.05 * (1 + 1.5 + 1.75)
        np.testing.assert_allclose(array.numpy() - run.model(0)[name].numpy(), steps, atol=2e-3)


# ---- kills


class Killed(BaseException):
    """As a `kill -9`: nothing after it happens."""


def after(monkeypatch, kind, name, nth):
    """Let a process die after the nth call of something."""
    whole, calls = getattr(kind, name), []

    def dying(*positional, **named):
        made = whole(*positional, **named)
        calls.append(1)
        if len(calls) == nth:
            raise Killed
        return made

    monkeypatch.setattr(kind, name, dying)


@pytest.mark.parametrize(
    ("kind", "name", "nth", "down"),
    [
        (FedWon, "_averaged", 2, "plain"),
        (Checkpoints, "write_velocity", 1, "plain"),
        (Checkpoints, "write_velocity", 2, "int8"),
        (Checkpoints, "write", 3, "plain"),
        (Run, "averaged", 2, "int8"),
        (Run, "commit", 2, "plain"),
    ],
)
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(  # noqa: PLR0917
    make_run, store, tmp_path, monkeypatch, kind, name, nth, down
):
    settings = {"rounds": 3, "down": down, "aggregation": MOMENTUM}
    undisturbed, run = trained(make_run(**settings)), make_run(**settings)
    undisturbed.finish("finished")
    after(monkeypatch, kind, name, nth)
    with pytest.raises(Killed):
        trained(run)
    monkeypatch.undo()
    again = Run.unfinished(store, tmp_path)
    assert again.id == run.id
    again.take_up()
    done = again.last()[0]
    start(again, FakeGrid(dict(DISAGREEING)), done=done, rounds=3 - done)
    for number in range(4):
        assert same(again.model(number), undisturbed.model(number))
    assert list(files(again, "*.velocity")) == [f"round-000{number}.velocity" for number in (1, 2, 3)]
    assert files(again, "*.velocity") == files(undisturbed, "*.velocity")


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_lost_velocity_costs_a_round_and_no_bits(make_run, store, damage):
    run = trained(make_run(rounds=3, aggregation=MOMENTUM))
    before, path = files(run, "round-*"), run.checkpoints.velocity_path(3)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(BrokenFile, match=r"round-0003\.velocity is not the file that was committed"):
            run.checkpoints.velocity(3)
    run.take_up()
    assert run.last()[0] == 2
    assert "round-0003.velocity" in next(row.detail for row in rows(store, AuditRow) if "damaged" in row.action)
    start(run, FakeGrid(dict(DISAGREEING)), done=2)
    assert files(run, "round-*.velocity") == {name: data for name, data in before.items() if "velocity" in name}
    assert files(run, "round-*.safetensors") == {name: data for name, data in before.items() if "tensors" in name}


def test_without_any_whole_velocity_the_run_says_so(make_run):
    run = trained(make_run(rounds=2, aggregation=MOMENTUM), rounds=2)
    for number in (0, 1):
        run.model_path(number).unlink()
    run.checkpoints.velocity_path(2).unlink()
    with pytest.raises(BrokenFile, match=r"round-0002\.velocity is gone"):
        run.take_up()


def test_a_velocity_that_was_changed_during_the_run_is_not_used(make_run):
    run = trained(make_run(rounds=1, aggregation=MOMENTUM), rounds=1)
    path = run.checkpoints.velocity_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BrokenFile, match="its digest differs"):
        start(run, FakeGrid({"a": answering()}), done=1)
    assert run.last()[0] == 1


def test_the_velocity_goes_with_its_model(make_run, store):
    rules = RetentionConfig(rounds=2)
    run = make_run(rounds=4, aggregation=MOMENTUM)
    run.config = run.config.model_copy(update={"retention": rules})
    trained(run, rounds=4)
    kept = {name.partition(".")[0] for name in files(run, "*.safetensors")}
    assert len(kept) < 5
    assert {name.partition(".")[0] for name in files(run, "*.velocity")} == kept - {"round-0000"}
    assert [row.velocity is None for row in rows(store, RoundRow)] == [True, *[False] * 4]


# ---- whom it concerns


def test_sites_and_those_who_use_the_model_get_nothing_of_it(make_run):
    told, run = [], make_run(rounds=2, aggregation=MOMENTUM)

    def site(message, name):
        told.append(message)
        return answering()(message, name)

    start(run, FakeGrid({"a": site}), rounds=2)
    for message in told:
        assert list(message.content.array_records) == ["arrays"]
        assert list(message.content["arrays"]) == list(run.model(0))
        assert not any("server_" in key or "aggregation" in key for key in message.content["config"])
    plain = trained(make_run(rounds=1), rounds=1).model(1)
    assert open_record(run.model_path(1)).metadata.keys() == plain.metadata.keys()
    velocity = run.checkpoints.velocity(2).blob.digest
    assert velocity not in str(run.model(2).metadata)
    assert list(open_record(run.finish("finished"))) == list(run.model(0))


@pytest.mark.parametrize("method", ["fedavg", "fedbn", "silobn", "fixbn"])
def test_only_what_is_shared_and_trained_has_a_velocity(store, tmp_path, method):
    config = small_run(rounds=2, aggregation=MOMENTUM).model_copy(update={"method": method})
    run = Run.create(store, tmp_path, config, config.classes)
    model, keeps = network(run.task(0)), config.rules.keeps
    local, statistics = local_names(model, keeps), local_names(model, "statistics")
    assert statistics

    def site(message, name):
        content = answering(0.1)(message, name)
        for tensor in local:
            del content["arrays"][tensor]
        return content

    start(run, FakeGrid({"a": site}), rounds=2)
    velocity = run.checkpoints.velocity(2)
    assert set(velocity) == trainable_names(model) - local
    first, last = run.model(0), run.model(2)
    for name, array in last.items():
        moved = array.numpy().astype(np.float64) - first[name].numpy()
        if name in local or name.endswith("num_batches_tracked"):
            assert not moved.any()
        elif name in statistics:
            np.testing.assert_allclose(moved, 0.2, atol=1e-5)  # the mean, twice
        else:
            np.testing.assert_allclose(moved, 0.1 + 0.15, atol=1e-5)


# ---- what it goes together with


def steps_by_its_velocity(run, rounds=2):
    """Whatever makes the mean: the model is the one before, moved by the velocity that is kept."""
    for number in range(1, rounds + 1):
        before, velocity, model = run.model(number - 1), run.checkpoints.velocity(number), run.model(number)
        assert set(velocity) == set(model)
        for name, array in model.items():
            wanted = before[name].numpy().astype(np.float64) - velocity[name].numpy()
            assert array.numpy().tobytes() == wanted.astype(np.float32).tobytes(), name
    first, second = (run.checkpoints.velocity(number) for number in (1, 2))
    return first, second


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_clipping"])
def test_robust_rules(make_run, rule):
    """Six move by 0.1; the seventh is far off and has no say, in the velocity neither."""
    settings = {"rule": rule, "weights": "uniform", **MOMENTUM}
    if rule == "norm_clipping":
        settings["clip_norm"] = 1e-3
    run = make_run(rounds=2, aggregation=settings, minimum=7)
    sites = {**dict.fromkeys("abcdef", answering(0.1)), "g": answering(5.0)}
    run.config = run.config.model_copy(update={"admission": run.config.admission.unsuspecting()})
    start(run, FakeGrid(sites), rounds=2)
    first, second = steps_by_its_velocity(run)
    step, again = (max(abs(one.numpy()).max() for one in velocity.values()) for velocity in (first, second))
    assert 0 < step <= 0.1001
    assert again == pytest.approx(1.5 * step, rel=1e-3)


def test_privacy_of_sites(store, tmp_path):
    """What is released is the mean; the step is made of what was released before: it costs nothing more."""
    content = small_run(rounds=2).model_dump(mode="json")
    content |= {"aggregation": MOMENTUM, "admission": {}, "privacy": {"sites": {"noise": 1.0, "clip": 1.0}}}
    content["privacy"]["sites"]["epsilon_limit"] = None
    config = RunConfig.model_validate(content)
    run = Run.create(store, tmp_path, config, config.classes)
    start(run, FakeGrid(dict.fromkeys("abc", answering(0.1))), rounds=2)
    assert len(steps_by_its_velocity(run)) == 2


def test_secure_aggregation(store, tmp_path):
    content = secure_run().model_dump(mode="json")
    content["aggregation"] |= MOMENTUM
    config = RunConfig.model_validate(content)
    run, grid = Run.create(store, tmp_path, config, config.classes), Sites({"s1": 10, "s2": 20, "s3": 30})
    SecureFedWon(run, grid).start(grid, run.last()[1], num_rounds=2, timeout=5)
    first, second = (arrays(velocity) for velocity in steps_by_its_velocity(run))
    for name, values in first.items():  # these sites move any model by the same
        np.testing.assert_allclose(second[name], 1.5 * values, atol=1e-5)


@pytest.mark.parametrize("aggregation", [MOMENTUM, {"server_lr": 0.5}])
def test_a_late_update_does_not_take_back_what_it_has_not_seen(make_run, aggregation):
    rules = {"staleness": 0.0, **aggregation}
    run = make_run(rounds=2, late_rounds=1, aggregation=rules)
    grid = FakeGrid({"a": answering(0.4), "b": in_turn(silent, answering(0.2))})
    start(run, grid, rounds=2)
    momentum, lr = run.config.aggregation.server_momentum, run.config.aggregation.server_lr
    first = run.model(0)
    expected = lr * 0.4 + lr * (momentum * 0.4 + (0.4 + 0.2) / 2)
    for name, array in run.model(2).items():
        np.testing.assert_allclose(array.numpy() - first[name].numpy(), expected, atol=1e-5)


def test_without_steps_a_late_update_counts_as_ever(make_run):
    run = make_run(rounds=2, late_rounds=1, aggregation={"staleness": 0.0})
    start(run, FakeGrid({"a": answering(0.4), "b": in_turn(silent, answering(0.2))}), rounds=2)
    for name, array in run.model(2).items():
        np.testing.assert_allclose(array.numpy(), shifted(run.model(0), 0.5)[name].numpy(), atol=1e-5)


def test_a_released_update_counts_by_what_it_changed(home):
    run = refused_run(home, aggregation={"staleness": 0.0, **MOMENTUM})
    first = run.model(0)
    release(home.store, home.folder, f"{run.id}.r0001.train.x")
    start(run, FakeGrid({"a": answering(0.1), "x": answering(0.2)}), done=1)
    expected = 0.11 + 0.5 * 0.11 + (0.1 + 0.2 + 50.0) / 3
    for name, array in run.model(2).items():
        np.testing.assert_allclose(array.numpy() - first[name].numpy(), expected, atol=1e-3)
