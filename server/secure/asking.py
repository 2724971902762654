"""One stage of a sitting as messages to its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict

from fedwon.common.errors import FedwonError
from fedwon.common.flower import set_message_id
from fedwon.common.secagg.messages import M, pack, unpack
from fedwon.common.secagg.stages import SECURE
from fedwon.server.rounds.events import SiteFailed
from fedwon.server.rounds.site_grid import SiteGrid, node_id_of
from fedwon.server.rounds.strategy import task_id
from fedwon.server.runs.run import Run


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        number: the round.
        query: what the stage is called in messages.
        task: what its tasks are called.
        seconds: for an answer.
    """

    number: int
    query: str
    task: str
    seconds: float


def ask(
    run: Run, grid: SiteGrid, stage: Stage, requests: Mapping[str, object], kind: type[M]
) -> tuple[dict[str, M], set[str]]:
    """Ask sites something; whoever gives no answer to it is told of, and left out.

    Args:
        run: whose round it is.
        grid: the sites.
        stage: which stage.
        requests: what each site is asked.
        kind: of their answers.

    Returns:
        The answers by site, and the sites that were silent, which may answer yet.
    """
    asked = {node_id_of(site): site for site in requests}
    messages = [_message(run, stage, site, request) for site, request in requests.items()]
    answers, reasons = dict[str, M](), dict[str, str]()
    for reply in grid.send_and_receive(messages, timeout=stage.seconds):
        site = asked[reply.metadata.src_node_id]
        found = _read(kind, reply)
        if isinstance(found, str):
            reasons[site] = found
        else:
            answers[site] = found
    for site in sorted(requests.keys() - answers.keys()):
        why = reasons.get(site, "no answer in time")
        reason = f"in secure aggregation ({stage.query.removeprefix('secagg_')}): {why}"
        run.tell(SiteFailed(stage.number, site, reason))
    return answers, requests.keys() - answers.keys() - reasons.keys()


def _message(run: Run, stage: Stage, site: str, request: object) -> Message:
    content, round_name = RecordDict({SECURE: pack(request)}), str(stage.number)
    message = Message(content, dst_node_id=node_id_of(site), message_type=f"query.{stage.query}", group_id=round_name)
    set_message_id(message, task_id(run.id, stage.number, stage.task, site))
    return message


def _read(kind: type[M], reply: Message) -> M | str:
    """Return what a site answered, or why that is nothing."""
    if reply.has_error():
        return reply.error.reason or "no reason given"
    try:
        return unpack(kind, reply.content)
    except FedwonError as error:
        return error.message
