"""Secure aggregation at a site: the stages of a sitting as Flower's queries, and the update as it leaves masked."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedwon.client import sitting
from fedwon.client.opened_sums import OpenedSums
from fedwon.client.site import Site
from fedwon.common.errors import ConfigError, TaskFailed
from fedwon.common.files import read_private
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import apply_masks
from fedwon.common.secagg.messages import Circle, MaskOrder, Opening, Setup, pack, unpack
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK

SHORTENED = "update-shortened"
"""The number that says whether the update was longer than the norm that the server asked for: 1, else 0."""
LEAST_SECRET = 16
"""Bytes of a circle's secret, at least."""
_ROUND = re.compile(r"(?P<run>.+?)\.r(?P<round>\d{4,})\.")
"""How the name of a task of ours begins."""


def answer_queries(app: ClientApp) -> None:
    """Let an app answer the stages of a sitting."""
    app.query(SETUP)(_set_up)
    app.query(SHARE_KEYS)(_share_keys)
    app.query(UNMASK)(_unmask)


def _set_up(message: Message, context: Context) -> Message:
    site, request = Site.of(context), unpack(Setup, message.content)
    if (asked := _ROUND.match(message.metadata.message_id)) is not None:  # early, so that nobody waits for this site
        OpenedSums(site, context.state).check(asked["run"], int(asked["round"]))
    return _reply(message, sitting.set_up(context.state, request, site.name, circle_secret(site)))


def _share_keys(message: Message, context: Context) -> Message:
    site, circle = Site.of(context), unpack(Circle, message.content)
    return _reply(message, sitting.share_keys(context.state, circle, site.name, circle_secret(site)))


def _unmask(message: Message, context: Context) -> Message:
    site, opening = Site.of(context), unpack(Opening, message.content)
    opened = OpenedSums(site, context.state)
    return _reply(message, sitting.reveal(context.state, opening, site.name, opened.note))


def _reply(message: Message, answer: object) -> Message:
    return Message(RecordDict({SECURE: pack(answer)}), reply_to=message)


def circle_secret(site: Site) -> bytes:
    """Return the secret that the site shares with the others; empty where its configuration names none.

    Raises:
        ConfigError: the file is not there, or too short for a secret.
        KeyExposed: others than its owner can open it.
        StorageError: it cannot be read.
    """
    if site.config.circle is None:
        return b""
    path = site.base / Path(site.config.circle)
    if not path.exists():
        raise ConfigError(f"There is no file {path}, which `circle` in client.yaml names.")
    secret = read_private(path).strip()
    if len(secret) < LEAST_SECRET:
        raise ConfigError(f"{path} holds {len(secret)} bytes; a circle's secret has {LEAST_SECRET} at least.")
    return secret


class Masking:
    """What makes a trained network into what leaves the site.

    Args:
        message: the task, with the order to mask.
        context: Flower's, of the site.
        site: the site.
        run: the run that asks.
        number: its round.

    Raises:
        UnsafeRequest: the order would uncover something, or this round was in a sum that the site helped to open.
        TaskFailed: it is none.
    """

    def __init__(self, message: Message, context: Context, site: Site, run: str, number: int) -> None:
        self._order, self._state, self._site = unpack(MaskOrder, message.content), context.state, site.name
        self._opened = OpenedSums(site, context.state)
        self._opened.check(run, number)
        self._seat = replace(sitting.take_order(self._state, self._order, site.name), run=run, round=number)

    def mask(self, update: ArrayRecord, base: ArrayRecord, examples: int) -> tuple[ArrayRecord, float]:
        """Mask an update; there is one in a sitting.

        Args:
            update: what the site shares of the trained network.
            base: the model that it started from.
            examples: training images.

        Returns:
            Its difference as masked whole numbers, a tensor each, and 1 where it was shortened, else 0.

        Raises:
            TaskFailed: it holds numbers that are none, or tensors that cannot be added up.
            UnsafeRequest: an update was masked in this sitting before, or this one was in another sum.
        """
        order = self._order
        differences = {name: _difference(name, array, base) for name, array in sorted(update.items())}
        norm = math.sqrt(sum(float(np.dot(values, values)) for values in differences.values()))
        if not math.isfinite(norm):
            raise TaskFailed("The update holds numbers that are not finite; masked, nobody could find them any more.")
        seat = replace(self._seat, update=_digest(differences) if norm > 0 else "")
        self._opened.check(seat.run, seat.round, seat.update)
        shortened = order.clip_norm / norm if norm > order.clip_norm else 1.0
        weight = min(examples, order.largest_weight) / order.largest_weight if order.by_examples else 1.0
        numbers = FixedPoint(order.clip_norm, order.sites)
        words = {name: numbers.encode(values, shortened * weight) for name, values in differences.items()}
        apply_masks(list(words.values()), sitting.masks(seat, self._site))
        sitting.note_masked(self._state, seat)
        made = ArrayRecord()
        for name, array in update.items():
            made[name] = Array(ndarray=words[name].view(np.int32).reshape(array.shape))
        return made, float(shortened < 1)


def _difference(name: str, array: Array, base: ArrayRecord) -> NDArray[np.float64]:
    values, start = array.numpy(), base[name].numpy()
    if not np.issubdtype(values.dtype, np.floating) or values.shape != start.shape:
        raise TaskFailed(f"Tensor `{name}` cannot be masked: it is of {values.dtype}, or of another shape.")
    with np.errstate(over="ignore", invalid="ignore"):
        return (values.astype(np.float64) - start.astype(np.float64)).reshape(-1)


def _digest(differences: Mapping[str, NDArray[np.float64]]) -> str:
    digest = hashlib.sha256()
    for name, values in differences.items():
        digest.update(f"{name}/{values.size}/".encode())
        digest.update(values.data)
    return digest.hexdigest()


def masking_of(message: Message, context: Context, site: Site, run: str, number: int) -> Masking | None:
    """Return what masks the update that a task of a round asks for; None where it asks for a plain one."""
    return Masking(message, context, site, run, number) if SECURE in message.content else None
