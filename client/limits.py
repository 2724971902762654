"""What a site lets the server ask of it, whatever the server asks: `limits` in client.yaml.

The server proposes a run; the site's people decide what their box does and what leaves it. A task beyond the limits is
given back with the reason, the site stays connected, and the server's operator reads it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from fedwon.client.day_count import DayCount
from fedwon.common.config import Settings
from fedwon.common.errors import BeyondLimits
from fedwon.common.methods import Normalization
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK
from fedwon.common.surveys import Survey, images_in

if TYPE_CHECKING:  # `fedwon-client predict` reads client.yaml where there is no Flower
    from flwr.app import Context, Message

    from fedwon.common.task_config import TaskConfig

    App = Callable[[Message, Context], Message]

TRAIN, OPEN = "train", f"query.{UNMASK}"
KINDS = frozenset({TRAIN, "evaluate", "query.survey", f"query.{SETUP}", f"query.{SHARE_KEYS}", OPEN})
"""The tasks that a site takes. Flower has a second name for some (`train.default`), which nobody would look at here."""


class LimitsConfig(Settings):
    """What this site lets the server ask of it; a task beyond it is given back with the reason."""

    rounds_per_day: int | None = Field(default=None, ge=1)
    """Rounds that this site trains in within any 24 hours; empty: as many as it is asked for."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over its images in a round; empty: any number."""
    least_steps: int = Field(default=1, ge=1)
    """Optimizer steps that an update is made of at least: one that is made of few shows more of the images in it."""
    least_images: int = Field(default=8, ge=1)
    """Images that an update is made of at least, or half of the site's where that is fewer: an update of one to
    four mostly shows them (docs/privacy.md). Training on all images of a site is above that."""
    networks: tuple[str, ...] | None = None
    """Networks that it trains (`run.model.name`); empty: any."""
    normalizations: tuple[Normalization, ...] | None = None
    """Normalizations that it trains with, `none` for that of `fedwon`; empty: any."""
    codecs: tuple[str, ...] | None = None
    """Codecs that its updates may go out in (`run.traffic.up`, such as `int8`); empty: any."""
    least_sum: int | None = Field(default=None, ge=2)
    """Its updates go out masked only, in sums of at least so many sites (`run.aggregation.secure`); empty: plain ones
    too, if the server asks for these."""
    show_counts: bool = True
    """Say how many images of each class there are; otherwise the server is told the classes' names and one number for
    all of them. It keeps these counts off pages and out of records; a server that means to can still find them out."""


class Limits:
    """The limits of one site.

    Args:
        config: client.yaml's `limits`.
        journal: the site's journal, where rounds are counted over restarts.
        images: counts the site's images; those to validate with may be among those to train on.
        batch_size: the site's own, if it has one.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        config: LimitsConfig,
        journal: Path,
        images: Callable[[], Survey],
        batch_size: int | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._days = config, DayCount(journal, config.rounds_per_day, clock)
        self._images, self._batch_size = images, batch_size

    def around(self, app: App) -> App:
        """Return an app that does what `app` does, within the limits.

        It raises BeyondLimits where a task is not or is none that a site takes, StorageError where the rounds of a day
        cannot be counted, and what `app` raises.
        """

        def _limited(message: Message, context: Context) -> Message:
            kind = message.metadata.message_type
            if kind not in KINDS:
                raise BeyondLimits(f"This site takes no task `{kind[:80]}`; it takes: {', '.join(sorted(KINDS))}.")
            if kind == TRAIN:
                self.check(message)
                with self._days.round(_round_of(message)):
                    return app(message, context)
            if kind == OPEN:
                self._check_sum(len(_named(message, "counted")))
            return app(message, context)

        return _limited

    def check(self, message: Message) -> None:
        """Look whether a training task is within the limits.

        Raises:
            BeyondLimits: it is not.
            TaskFailed, ConfigError: it is no task.
        """
        from fedwon.client.app import read_task  # with torch, which an idle site has no use for
        from fedwon.common.codec import codec_of

        _, task = read_task(message)
        _check_named("the network", task.model.name, self._config.networks)
        _check_named("the normalization", task.normalization, self._config.normalizations)
        _check_named("the codec", codec_of(message.content), self._config.codecs)
        self._check_sum(len(_named(message, "neighbours")) + 1 if SECURE in message.content else 1)
        self._check_work(task)

    def _check_sum(self, sites: int) -> None:
        """Look at how many sites an update of this one would be added up with, as far as it masks with them."""
        least = self._config.least_sum
        if least is not None and sites < least:
            raise BeyondLimits(
                f"This site sends its updates only in sums of {least} sites or more (`limits.least_sum` in "
                "client.yaml); " + (f"this one would be of {sites}." if sites > 1 else "it was asked for a plain one.")
            )

    def _check_work(self, task: TaskConfig) -> None:
        survey = self._images()
        images = _images_of(task, survey)
        batch = self._batch_size or task.training.batch_size
        steps = task.training.steps or task.training.epochs * math.ceil(images / batch)
        if steps < self._config.least_steps:
            raise BeyondLimits(
                f"This site sends no update of fewer than {self._config.least_steps} steps (`limits.least_steps` in "
                f"client.yaml); it was asked for {steps}, with batches of {batch} of {images} images."
            )
        self._check_shown(min(images, steps * batch), images_in(survey, ("train",)))
        epochs = task.training.epochs if task.training.steps is None else steps * batch / images
        if self._config.epochs is not None and epochs > self._config.epochs:
            raise BeyondLimits(
                f"This site passes over its images {self._config.epochs:g} times a round at most (`limits.epochs` in "
                f"client.yaml); it was asked for {epochs:g}."
            )

    def _check_shown(self, shown: int, held: int) -> None:
        """Look at how many of the site's images an update would be made of."""
        least = min(self._config.least_images, max(held // 2, 1))
        if shown < least:
            raise BeyondLimits(
                f"This site sends no update that is made of fewer than {least} images (`limits.least_images` in "
                f"client.yaml, or half of the {held} that it has); it was asked for one of {shown}."
            )


def _images_of(task: TaskConfig, survey: Survey) -> int:
    """Count the images that a task trains on here, one at least: of its classes, without those to validate with."""
    held = {name: survey[name] for name in task.classes if name in survey}
    train = images_in(held, ("train",))
    if not images_in(held, ("validation",)):
        train = int(train * (1 - task.images.validation_fraction))
    images = max(train, 1)
    return min(images, task.images.max_train or images)


def _round_of(message: Message) -> str:
    """The task's name and the model that it starts from: another model is another round."""
    from fedwon.common.arrays import StoredRecord

    digests = [
        record.blob.digest for record in message.content.array_records.values() if isinstance(record, StoredRecord)
    ]
    return " ".join([message.metadata.message_id, *digests])


def _named(message: Message, key: str) -> list[str]:
    """Return the sites that a message of secure aggregation names; what it is as a whole is looked at later."""
    record = message.content.config_records.get(SECURE)
    found = None if record is None else record.get(key)
    return [str(name) for name in found] if isinstance(found, list) else []


def _check_named(what: str, asked: str, allowed: tuple[str, ...] | None) -> None:
    if allowed is not None and asked not in allowed:
        raise BeyondLimits(
            f"This site trains with {what} {', '.join(f'`{name}`' for name in allowed) or 'of no kind'} only "
            f"(`limits` in client.yaml); it was asked for `{asked}`."
        )
