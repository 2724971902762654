"""A server that holds two sittings over the same updates, to subtract one sum from the other."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedwon.common.flower import host_app, set_message_id
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import apply_masks
from fedwon.common.secagg.messages import Keys, Opening, Revealed, Shares, pack, unpack
from fedwon.common.secagg.stages import SECURE
from fedwon.common.task_config import TaskConfig
from fedwon.server.rounds.site_grid import node_id_of
from fedwon.server.rounds.strategy import task_id
from fedwon.server.secure.sitting import Sitting
from tests.server.secure.secure_kit import STAGES, Sites, moved, secure_run
from tests.server.server_kit import record

CLIP = 100.0
MODEL = record(w=np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10), b=np.zeros(4, np.float32))


class Refused(Exception):
    """What a site said in place of an answer."""


class Curious:
    """A server that goes through the stages with whom it likes.

    Attributes:
        named: give tasks the names that an honest server gives them, which say the round.
    """

    def __init__(self):
        host_app()
        self._tasks = count()
        self.sites, self.named = Sites(dict.fromkeys("abcd", 10)), True

    def _answers(self, kind, stage, requests, run, number, **more):
        found = {}
        for name, request in requests.items():
            content = RecordDict({SECURE: pack(request), **more})
            message = Message(content, dst_node_id=node_id_of(name), message_type=stage, group_id=str(number))
            task = f"task-{next(self._tasks)}"
            set_message_id(message, task_id(run, number, task, name) if self.named else task)
            answer = self.sites._answer(message, name)
            if isinstance(answer, str):
                raise Refused(answer)
            found[name] = answer if kind is None else unpack(kind, answer)
        return found

    def masked(self, names, run="run", number=1, model=MODEL):
        """The sitting of these sites and their masked updates."""
        server = Sitting()
        begun = self._answers(Keys, STAGES[0], dict.fromkeys(names, server.setup), run, number)
        shares = self._answers(Shares, STAGES[1], server.circles(begun), run, number)
        orders = server.orders(shares, clip_norm=CLIP, largest_weight=1.0, by_examples=False)
        task = TaskConfig.of(secure_run(), run=run, server_round=number, classes=("a", "b"))
        told = {"arrays": model, "config": ConfigRecord(task.flat())}
        answers = self._answers(None, STAGES[2], orders, run, number, **told)
        return server, {name: content["arrays"] for name, content in answers.items()}

    def opened(self, server, uploads, run="run", number=1):
        """The open sum of masked updates."""
        answers = self._answers(Revealed, STAGES[3], server.openings(uploads), run, number)
        totals = {key: np.zeros(array.numpy().size, dtype=np.uint32) for key, array in sorted(MODEL.items())}
        for arrays in uploads.values():
            for key, total in totals.items():
                np.add(total, arrays[key].numpy().reshape(-1).view(np.uint32), out=total)
        apply_masks(list(totals.values()), server.masks(answers))
        return {key: FixedPoint(CLIP, len(uploads)).decode(total) for key, total in totals.items()}

    def summed(self, names, **which):
        """A whole sitting."""
        model = which.pop("model", MODEL)
        return self.opened(*self.masked(names, model=model, **which), **which)


@pytest.fixture
def server():
    return Curious()


def test_the_difference_of_two_sums_would_be_one_update(server):
    """Why all this is: sites that remember nothing are subtracted from one another, to the last digits."""
    whole = server.summed("abcd")
    for context in server.sites._contexts.values():
        context.state.clear()
    rest = server.summed("abc")
    update = {key: after.numpy() - MODEL[key].numpy() for key, after in moved(MODEL, "d").items()}
    for key, values in update.items():
        assert np.allclose(whole[key] - rest[key], values.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_of_one_round_there_is_one_sum(server, named):
    server.named = named
    server.summed("abcd")
    with pytest.raises(Refused, match="has helped to open a sum of round 1 of run run before"):
        server.masked("abc")


def test_nor_with_another_model_in_the_same_round_or_an_earlier_one(server):
    server.summed("abcd", number=5)
    nudged = record(**{name: array.numpy() + np.float32(1e-6) for name, array in MODEL.items()})
    for number in (5, 4):
        with pytest.raises(Refused, match="a sum of round 5 of run run before"):
            server.masked("abc", number=number, model=nudged)


def test_nor_under_the_name_of_another_run(server):
    server.summed("abcd")
    with pytest.raises(Refused, match="with this very update before, in another run"):
        server.masked("abc", run="other")


def test_masks_that_stay_on_do_no_harm_and_the_round_may_be_asked_for_again(server):
    server.masked("abcd")
    assert server.summed("abc")


def test_of_two_sittings_the_one_that_was_left_is_opened_by_nobody(server):
    earlier, uploads = server.masked("abcd")
    server.summed("abc")
    server.named = False
    for name in "abc":
        opening = Opening(earlier.name, ("a", "b", "c", "d"), ())
        with pytest.raises(Refused, match="no keys of this sitting"):
            server._answers(Revealed, STAGES[3], {name: opening}, "run", 1)
    assert len(uploads) == 4


def test_who_helped_is_in_no_later_sitting_and_who_did_not_may_be(server):
    """Of an opened sum's sites more than half have helped: nothing is subtracted down to fewer than these."""
    first, uploads = server.masked("abcd")
    openings = first.openings(uploads)
    server._answers(Revealed, STAGES[3], {name: openings[name] for name in "abc"}, "run", 1)
    assert server._answers(Keys, STAGES[0], {"d": Sitting().setup}, "run", 1)
    for name in "abc":
        with pytest.raises(Refused, match="has helped to open"):
            server._answers(Keys, STAGES[0], {name: Sitting().setup}, "run", 1)


def test_rounds_that_go_forward_are_opened_each(server):
    after = record(**{name: array.numpy() + 1 for name, array in MODEL.items()})
    assert server.summed("abcd", number=1)
    assert server.summed("abcd", number=2, model=after)
    assert server.summed("abc", run="other", number=1, model=record(**{n: a.numpy() - 1 for n, a in MODEL.items()}))


def test_updates_that_move_nothing_may_be_alike(server, monkeypatch):
    monkeypatch.setattr("tests.server.secure.secure_kit.moved", lambda model, site: model)
    assert server.summed("abcd")
    assert server.summed("abc", run="other")
