"""The one file that touches what Flower does not publish.

Flower's `Grid` names `Run` in its signatures, and a `Message` reads the process-wide `TaskIdentity`; neither is public
in flwr 1.41. The functions of its robust strategies stand in their modules and not in the package. Everything else in
fedwon uses `flwr.app`, `flwr.serverapp` and `flwr.clientapp`. A test fails clearly when Flower moves one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

__all__ = [
    "SERVER_NODE",
    "Run",
    "closest_mean",
    "host_app",
    "incoming",
    "make_context",
    "make_run",
    "set_message_id",
    "trimmed_mean",
]

SERVER_NODE = 1
"""Flower's own number for the server side of a message."""


def host_app() -> None:
    """Give this process the identity that Flower's messages read when they are made; safe to call again.

    Where Flower's own engines host the app, they have given it one already, and messages must carry that.
    """
    try:
        _ = (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id)
    except RuntimeError:
        _give_identity()


def _give_identity() -> None:
    TaskIdentity.run_id = 1
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = SERVER_NODE


def make_run() -> Run:
    """Return the run that a `Grid` of ours reports to Flower."""
    return Run.create_empty(run_id=1)


def make_context(
    node_id: int,
    node_config: Mapping[str, bool | int | float | str],
    run_config: Mapping[str, bool | int | float | str] | None = None,
) -> Context:
    """Make the context in which Flower calls an app.

    Args:
        node_id: the node that runs the app.
        node_config: settings of that node.
        run_config: settings of the run.
    """
    return Context(
        run_id=1,
        node_id=node_id,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config or {}),
    )


def set_message_id(message: Message, message_id: str) -> None:
    """Name a message, so that its reply can be matched; Flower leaves that to whoever carries it."""
    message.metadata._message_id = message_id  # type: ignore[attr-defined]  # noqa: SLF001


def incoming(content: RecordDict, message_type: str, *, node_id: int, message_id: str, group_id: str) -> Message:
    """Make a message as it arrives at a node.

    Args:
        content: the records.
        message_type: Flower's type, "train" or "evaluate".
        node_id: the node that it arrives at.
        message_id: the name that the reply refers to.
        group_id: the round.
    """
    message = Message(content, dst_node_id=node_id, message_type=message_type, group_id=group_id)
    set_message_id(message, message_id)
    return message


def trimmed_mean(rows: NDArray[Any], share: float) -> NDArray[Any]:
    """Return the mean of each column without a share of its values at either end: that of Flower's `FedTrimmedAvg`."""
    from flwr.serverapp.strategy.fedtrimmedavg import trim_mean  # strategies are nothing for an edge box

    return trim_mean(rows, share)


def closest_mean(rows: NDArray[Any], reference: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the mean of the `count` values of each column closest to a reference: that of Flower's `Bulyan`."""
    from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights

    found: NDArray[Any] = aggregate_n_closest_weights([reference], [[row] for row in rows], count)[0]
    return found
