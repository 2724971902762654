"""What fedwon takes from Flower beyond its public modules, and what it relies on there: fails when Flower moves it."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedwon.common import flower

MOVED = f"flwr {version('flwr')} has moved what fedwon.common.flower relies on: look at docs/decisions and that file"


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_run_and_identity_are_where_they_were():
    try:
        from flwr.supercore.run import Run
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError as error:
        pytest.fail(f"{MOVED}: {error}")
    assert parameters(Run.create_empty) == ["run_id"], MOVED
    found = vars(type(TaskIdentity)) | vars(TaskIdentity)
    assert {"run_id", "task_id", "node_id"} <= {name.lstrip("_") for name in found}, MOVED
    assert flower.make_run().run_id == 1
    assert flower.Run is Run


def test_a_grid_has_these_abstract_methods_and_no_others():
    expected = {
        "create_message": ["self", "content", "message_type", "dst_node_id", "group_id", "ttl"],
        "get_node_ids": ["self"],
        "pull_messages": ["self", "message_ids"],
        "push_messages": ["self", "messages"],
        "send_and_receive": ["self", "messages", "timeout"],
        "set_run": ["self", "run"],
    }
    assert set(Grid.__abstractmethods__) == {*expected, "run"}, MOVED
    for name, wanted in expected.items():
        assert parameters(getattr(Grid, name)) == wanted, f"{MOVED}: Grid.{name}"


def test_a_message_needs_an_identity_and_takes_a_name():
    flower.host_app()
    flower.host_app()
    message = flower.incoming(RecordDict(), "train", node_id=7, message_id="task-1", group_id="3")
    assert (message.metadata.message_id, message.metadata.group_id, message.metadata.dst_node_id) == ("task-1", "3", 7)
    reply = Message(RecordDict(), reply_to=message)
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == ("task-1", 7), MOVED
    error = Message(Error(code=63, reason="why"), reply_to=message)
    assert (error.has_error(), error.error.reason, error.metadata.src_node_id) == (True, "why", 7), MOVED


def test_an_identity_that_flower_has_given_stays(monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 77)
    flower.host_app()
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (77, 77, 77), MOVED
    monkeypatch.setattr(TaskIdentity, "_run_id", None)
    flower.host_app()
    assert TaskIdentity.run_id == 1, MOVED


def test_the_simulation_takes_what_ours_hands_it():
    from flwr.simulation import run_simulation

    wanted = {"server_app", "client_app", "num_supernodes", "backend_config"}
    assert wanted <= {*parameters(run_simulation)}, MOVED


def test_a_message_begins_without_a_name():
    flower.host_app()
    message = Message(RecordDict(), dst_node_id=1, message_type="train", group_id="1")
    assert message.metadata.message_id == "", MOVED
    flower.set_message_id(message, "named")
    assert message.metadata.message_id == "named", MOVED


def test_a_reply_may_take_longer_than_flower_thinks():
    flower.host_app()
    message = flower.incoming(RecordDict(), "train", node_id=7, message_id="task-1", group_id="3")
    message.metadata.created_at -= 1e6
    assert not Message(RecordDict(), reply_to=message).has_error()


def test_an_app_is_called_with_a_message_and_a_context():
    flower.host_app()
    app = ClientApp()

    @app.train()
    def train(message, context):
        return Message(
            RecordDict({"m": MetricRecord({"n": 1}), "c": ConfigRecord({"site": context.node_config["site"]})}),
            reply_to=message,
        )

    message = flower.incoming(RecordDict(), "train", node_id=7, message_id="task-1", group_id="3")
    reply = app(message, flower.make_context(7, {"site": "line-1"}))
    assert reply.content["c"]["site"] == "line-1", MOVED


def test_the_strategy_has_what_ours_overrides():
    assert parameters(FedAvg.configure_train) == ["self", "server_round", "arrays", "config", "grid"], MOVED
    assert parameters(FedAvg.aggregate_train) == ["self", "server_round", "replies"], MOVED
    assert {"grid", "initial_arrays", "num_rounds", "timeout"} <= {*parameters(FedAvg.start)}, MOVED
    assert {"fraction_train", "min_train_nodes", "min_available_nodes"} <= {*parameters(FedAvg.__init__)}, MOVED


def test_an_array_is_what_a_stored_one_pretends_to_be():
    import numpy as np

    array = Array(ndarray=np.zeros((2, 3), np.float32))
    assert (array.dtype, tuple(array.shape), array.stype) == ("float32", (2, 3), "numpy.ndarray"), MOVED
    assert {"dtype", "shape", "stype", "data"} <= set(vars(array)), MOVED
    assert isinstance(ArrayRecord({"a": array})["a"], Array), MOVED
