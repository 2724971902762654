"""The site's side of a round: a plain Flower `ClientApp`.

It runs unchanged under fedwon's own link, in a simulation and in Flower's SuperNode.

A message carries the global model (`ArrayRecord` under `arrays`) and the task (`ConfigRecord` under `config`, a flat
`TaskConfig`). `train` first evaluates the model that came in on the site's validation images and then trains it, so
that one reply tells how good the last round's model is and brings the update for the next: half the traffic of a
train message followed by an evaluate message. Metrics always have the same keys, which Flower's strategies ask for.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedwon.client.images.data import survey
from fedwon.client.images.opening import Notes, SiteData, open_site
from fedwon.client.secure import SHORTENED, answer_queries, masking_of
from fedwon.client.site import SITE, Site
from fedwon.client.training import local_state
from fedwon.client.training.local import EVALUATION_BATCH, Evaluation, TrainingOutcome, evaluate, train
from fedwon.client.training.privacy_ledger import Ledger
from fedwon.client.training.sending import ARRAYS, encoded
from fedwon.common.errors import ConfigError, DataError, TaskFailed
from fedwon.common.model_file import network
from fedwon.common.network_state import load_into, overlay, record_of
from fedwon.common.surveys import PARTS
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.models import local_names, standardize_weights

CONFIG, METRICS, NOTES = "config", "metrics", "notes"
"""Names of the records in a message, beside `arrays`."""

CORRUPT_NAMED = 20
"""At most so many unreadable images are named in a reply; all of them are counted."""

_FLOWERS_OWN = frozenset({"server-round"})  # Flower's strategies put it into every configuration
_NOTHING = Evaluation(0.0, 0, 0, (), ())

app = ClientApp()
answer_queries(app)


@app.train()
def train_message(message: Message, context: Context) -> Message:
    """Evaluate the global model on the validation images, then train it.

    Returns:
        A reply with `arrays` (parameters and buffers, without what stays at the site; as the codec writes them that the
        message asks for, which `traffic` then names; or masked, where it asks for that), `metrics` (num-examples,
        train-loss, train-seconds, steps, clipped-fraction, validation-loss, validation-correct, validation-examples,
        corrupt-images; of private training privacy-epsilon in place of train-loss) and `notes`.

    Raises:
        FedwonError: the task, the site's configuration or its data cannot be used, or training failed.
        Cancelled: the task was given up meanwhile.
    """
    site, task, data, model, local = _prepare(message, context, newest=-1)
    masking = masking_of(message, context, site, task.run, task.round)
    ledger = Ledger(site, context.state)
    ledger.permit(task)
    with _opened.forgetting(site):
        before = evaluate(model, data.validation, batch_size=_at_once(site))
        outcome, shown = _trained(site, task, data, model, ledger)
    if local:
        own = record_of(model, without=model.state_dict().keys() - local)
        local_state.remember(context.state, task.run, task.round, own)
    if task.training.weights_sent == "standardized":
        standardize_weights(model)
    metrics: dict[str, int | float] = {
        "num-examples": outcome.examples,
        "train-seconds": outcome.seconds,
        "steps": outcome.steps,
        "clipped-fraction": outcome.clipped_fraction,
        **shown,
        **_measures("validation", before),
        "corrupt-images": len(data.notes.corrupt),
    }
    update = record_of(model, without=local)
    if masking is None:
        sent = encoded(update, message.content, context.state, task, site.name)
    else:
        masked, metrics[SHORTENED] = masking.mask(update, message.content.array_records[ARRAYS], outcome.examples)
        sent = {ARRAYS: masked}
    return _reply(message, metrics, data.notes, sent)


@app.evaluate()
def evaluate_message(message: Message, context: Context) -> Message:
    """Evaluate the global model on the validation and the test images.

    Returns:
        A reply with `metrics` (num-examples: all images evaluated; loss, correct and examples of `validation-` and
        `test-`, zeros where the site has no such images; corrupt-images) and `notes`.

    Raises:
        FedwonError: the task, the site's configuration or its data cannot be used, or the model has diverged.
        Cancelled: the task was given up meanwhile.
    """
    site, _, data, model, _ = _prepare(message, context, newest=0)
    with _opened.forgetting(site):
        at_once = _at_once(site)
        validation = evaluate(model, data.validation, batch_size=at_once)
        test = evaluate(model, data.test, batch_size=at_once) if data.test is not None else _NOTHING
    metrics: dict[str, int | float] = {
        "num-examples": validation.examples + test.examples,
        **_measures("validation", validation),
        **_measures("test", test),
        "corrupt-images": len(data.notes.corrupt),
    }
    return _reply(message, metrics, data.notes)


@app.query("survey")
def survey_message(message: Message, context: Context) -> Message:
    """Say which site this is and what images it has: what a site tells in its hello where the link is Flower's own.

    Returns:
        A reply with `site` (name, version; classes, and for each of them the number of train, validation and test
        images).

    Raises:
        FedwonError: the site's configuration or its data cannot be used.
    """
    site = Site.of(context)
    rows = survey(site.config.data, site.base)
    parts: dict[str, list[int]] = {part: [rows[name][part] for name in rows] for part in PARTS}
    told = ConfigRecord({"name": site.name, "version": VERSION, "classes": list(rows), **parts})
    return Message(RecordDict({SITE: told}), reply_to=message)


def _trained(
    site: Site, task: TaskConfig, data: SiteData, model: nn.Module, ledger: Ledger
) -> tuple[TrainingOutcome, dict[str, float]]:
    """Train as the task says; returns what it came to, and what of it may be told beside the rest."""
    batch_size = site.config.batch_size or task.training.batch_size
    seed = derive_seed(task.seed, site.name, task.round)
    if (noise := task.privacy.noise) is not None:
        # only who trains privately needs Opacus
        from fedwon.client.training.private import Mechanism, planned, train_privately

        plan = planned(len(data.train), batch_size, task.training, noise)
        epsilon = ledger.charge(task, plan)
        mechanism = Mechanism(task.privacy.clip, noise)
        outcome = train_privately(model, data.train, task.training, plan, mechanism, seed=seed)
        return outcome, {"privacy-epsilon": epsilon}
    outcome = train(
        model,
        data.train,
        task.training,
        batch_size=batch_size,
        minimum_batch=task.minimum_batch,
        seed=seed,
        frozen_statistics=task.frozen_statistics,
    )
    return outcome, {"train-loss": outcome.loss}


def derive_seed(seed: int, site: str, server_round: int) -> int:
    """A site's own seed for a round: alike on every machine, and unlike any other site's or round's.

    Returns:
        63 bits.
    """
    digest = hashlib.sha256(f"{seed}/{site}/{server_round}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _at_once(site: Site) -> int:
    """Images evaluated at once: fewer where the site has a small batch size of its own, for it has little memory.

    A step of training keeps each layer's output, evaluation only the last few: four times the images fit.
    """
    own = site.config.batch_size
    return EVALUATION_BATCH if own is None else min(EVALUATION_BATCH, 4 * own)


class _Work(NamedTuple):
    site: Site
    task: TaskConfig
    data: SiteData
    model: nn.Module
    local: frozenset[str]
    """Names of the tensors that stay at the site."""


def _prepare(message: Message, context: Context, *, newest: int) -> _Work:
    """Make everything ready; `newest` is the round whose local layers may be used, counted from the task's."""
    site = Site.of(context)
    arrays, task = read_task(message)
    if site.config.threads is not None and site.config.threads != torch.get_num_threads():
        torch.set_num_threads(site.config.threads)
    data = _opened.get(site, task)
    model = _build(task)
    load_into(model, arrays)
    local = local_names(model, task.keeps)
    own = local_state.recall(context.state, task.run, before=task.round + newest + 1) if local else None
    if own is not None:
        overlay(model, own, local)
    return _Work(site, task, data, model, local)


def read_task(message: Message) -> tuple[ArrayRecord, TaskConfig]:
    """Return the global model and the task that a message carries.

    Raises:
        TaskFailed: one of them is missing.
        ConfigError: the task has an unknown key, or a value out of range.
    """
    content = message.content
    arrays, config = content.get(ARRAYS), content.get(CONFIG)
    if not isinstance(arrays, ArrayRecord) or not isinstance(config, ConfigRecord):
        raise TaskFailed(
            f"The task has no `{ARRAYS}` or no `{CONFIG}` (it has: {', '.join(content) or 'nothing'}).",
            hint="Is the server a fedwon-server of this version?",
        )
    return arrays, TaskConfig.from_flat({key: value for key, value in config.items() if key not in _FLOWERS_OWN})


def _build(task: TaskConfig) -> nn.Module:
    try:
        return network(task)
    except ConfigError as error:
        raise TaskFailed(
            f"This site cannot build the network: {error}", hint="Check `model` and `images.size` in the server's run."
        ) from error


class _Opened:
    """Data kept between messages, so that a round does not decode what the last one decoded.

    One entry a site, for its latest run: a new run looks at the folders anew, and a box never holds two runs' images.
    Several sites share a process in simulations only: what does not fit into `most_bytes` together is decoded again,
    but for the latest site's.
    """

    most_bytes = 2**30

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Site, tuple[object, SiteData]] = OrderedDict()

    def get(self, site: Site, task: TaskConfig) -> SiteData:
        """The site's images for this task, opened now unless they are the last ones'."""
        key = (task.run, task.seed, task.classes, task.images)
        with self._lock:
            known = self._entries.pop(site, None)
        if known is None or known[0] != key:
            del known  # before the new images come, the old ones may go
            known = (key, open_site(site.config.data, task, site.base))
        with self._lock:
            self._entries[site] = known
            while len(self._entries) > 1 and self._bytes() > self.most_bytes:
                self._entries.popitem(last=False)
        return known[1]

    def _bytes(self) -> int:
        return sum(data.nbytes for _, data in self._entries.values())

    @contextmanager
    def forgetting(self, site: Site) -> Iterator[None]:
        """Forget the site's images if they turn out to have changed, so that the next task looks anew."""
        try:
            yield
        except DataError:
            with self._lock:
                self._entries.pop(site, None)
            raise


_opened = _Opened()


def _measures(prefix: str, evaluation: Evaluation) -> dict[str, int | float]:
    return {
        f"{prefix}-loss": evaluation.loss,
        f"{prefix}-correct": evaluation.correct,
        f"{prefix}-examples": evaluation.examples,
    }


def _reply(
    message: Message, metrics: dict[str, int | float], notes: Notes, sent: Mapping[str, ArrayRecord | ConfigRecord] = {}
) -> Message:
    told = ConfigRecord(
        {
            "corrupt": [image.path for image in notes.corrupt[:CORRUPT_NAMED]],
            "skipped-classes": list(notes.skipped),
            "skipped-images": list(notes.skipped.values()),
            "missing-classes": list(notes.missing),
        }
    )
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {METRICS: MetricRecord(dict(metrics)), NOTES: told}
    return Message(RecordDict({**records, **sent}), reply_to=message)
