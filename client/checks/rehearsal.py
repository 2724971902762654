"""What is found out by trying: images decoded, classes compared with the federation's, a step trained and timed."""

from __future__ import annotations

import asyncio
import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import torch
from torch import nn

from fedwon.client.ceiling import is_out_of_memory, memory_limit
from fedwon.client.checks.preflight import CONNECT_SECONDS, Finding, finding_of
from fedwon.client.config import ClientConfig
from fedwon.client.enrolment import open_channel
from fedwon.client.images.agreement import agree
from fedwon.client.images.data import survey
from fedwon.client.images.decoding import Preparation
from fedwon.client.images.image_set import ImageSet
from fedwon.client.images.listing import list_site
from fedwon.client.images.opening import parted
from fedwon.client.images.quality import look_over, some
from fedwon.client.training.local import TrainingOutcome, train
from fedwon.common.errors import ConfigError, EmptyClass, FedwonError, OutOfMemory, Refused
from fedwon.common.model_file import network
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire import fedwon_pb2_grpc as rpc
from fedwon.common.wire.grpc_errors import from_rpc
from fedwon.common.wire.records import settings_of

STEPS = 3
"""Steps that are timed, after one that warms up."""
CLOCK_SECONDS = 300.0
CLOCK_LIMIT = 20 * 3600.0
"""Certificates begin a day before they are made; beyond that a site is locked out."""


@dataclass(frozen=True)
class Outlook:
    """What the server says a site would be asked.

    Attributes:
        task: like those that the site would get; with its own classes where the federation's are not known yet.
        known: whether the federation's classes are known.
        ahead: seconds by which this machine's clock is ahead of the server's.
    """

    task: TaskConfig
    known: bool
    ahead: float


def rehearse(config: ClientConfig, folder: Path) -> list[Finding]:
    """Try what a site would do.

    Args:
        config: client.yaml.
        folder: the site's folder.
    """
    asked: Outlook | FedwonError
    try:
        asked = asyncio.run(_asked(config, folder))
    except FedwonError as error:
        asked = error
    task = asked.task if isinstance(asked, Outlook) else None
    return [
        finding_of("clock", lambda: _clock(asked)),
        finding_of("content", lambda: _content(config, folder)),
        finding_of("classes", lambda: _classes(config, folder, asked)),
        finding_of("training", lambda: _training(config, folder, task)),
    ]


async def _asked(config: ClientConfig, folder: Path) -> Outlook:
    server = config.server
    async with open_channel(server, folder) as channel:
        began = time.time()
        try:
            reply = await rpc.FederationStub(channel).Prospect(pb.ProspectRequest(), timeout=CONNECT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, server) from None
    ahead = (began + time.time()) / 2 - reply.clock
    settings = settings_of(reply.records)
    known = "classes" in settings
    own = {} if known else {"classes": list(_own_classes(config, folder))}
    return Outlook(TaskConfig.from_flat({**settings, **own}), known, ahead)


def _unasked(name: str) -> Finding:
    text, hint = "not compared: the server could not be asked", "Check again once it answers."
    return Finding(name, ok=True, text=text, hint=hint)


def _clock(asked: Outlook | FedwonError) -> Finding:
    if isinstance(asked, FedwonError):
        return _unasked("clock")
    figures = {"ahead_seconds": asked.ahead}
    side = "ahead of" if asked.ahead > 0 else "behind"
    text = f"{abs(asked.ahead):.0f} s {side} the server's"
    if abs(asked.ahead) > CLOCK_LIMIT:
        hint = "Set it (`timedatectl`, `date -u`), best by NTP: certificates will not be valid."
        return Finding("clock", ok=False, text=text, hint=hint, code=Refused.code, figures=figures)
    hint = "Set it, best by NTP." if abs(asked.ahead) > CLOCK_SECONDS else ""
    return Finding("clock", ok=True, text=text, hint=hint, figures=figures)


def _content(config: ClientConfig, folder: Path) -> Finding:
    found = look_over(list_site(config.data, folder))
    groups = {
        "unreadable": found.unreadable,
        "in two classes": found.contradictory,
        "for testing and trained on": found.leaked,
        "twice": found.again,
        "of an odd size": found.odd,
    }
    notes = [f"{len(names)} {what}: {some(names)}" for what, names in groups.items() if names]
    counts = {what.replace(" ", "_"): float(len(names)) for what, names in groups.items()}
    figures = {"looked": float(found.looked), **counts}
    if found.unread_classes:
        text = f"no image can be read of class {some(found.unread_classes)}; unreadable: {some(found.unreadable)}"
        code, hint = EmptyClass.code, EmptyClass.default_hint
        return Finding("content", ok=False, text=text, hint=hint, code=code, figures=figures)
    width, height = found.usual
    text = f"{found.looked} of {found.total} images decoded, most are {width} x {height}"
    hint = "Unreadable images are left out, and so the counts fall; look at the named ones." if notes else ""
    return Finding("content", ok=True, text="; ".join([text, *notes]), hint=hint, figures=figures)


def _classes(config: ClientConfig, folder: Path, asked: Outlook | FedwonError) -> Finding | str:
    if isinstance(asked, FedwonError):
        return _unasked("classes")
    if not asked.known:
        return "not compared: the federation's classes are not named yet; they will be those of its first sites"
    agreement = agree(list_site(config.data, folder), asked.task)
    notes = [f"{count} images of `{name}` would be left out" for name, count in agreement.skipped.items()]
    notes += [f"no image to train on of {some(agreement.missing)}"] if agreement.missing else []
    text = "; ".join([f"the federation has {len(asked.task.classes)}", *notes])
    hint = "That is allowed by the run's `images`; ask the operator if it is meant." if notes else ""
    return Finding("classes", ok=True, text=text, hint=hint)


def _training(config: ClientConfig, folder: Path, task: TaskConfig | None) -> Finding:
    assumed = task or _assumed(config, folder)
    _, rows, _ = parted(config.data, assumed, folder)
    trained = min(len(rows["train"]), assumed.images.max_train or len(rows["train"]))
    batch = min(config.batch_size or assumed.training.batch_size, max(trained, 1))
    seconds = _timed(config, assumed, batch)
    steps = assumed.training.steps or assumed.training.epochs * math.ceil(trained / batch)
    minutes = (steps + len(rows["validation"]) / batch / 3) * seconds / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = memory_limit(config.memory_mb)
    room = f" of {limit.size / 1e6:.0f}" if limit else ""
    text = (
        f"{seconds:.3g} s a step of {batch} images with `{assumed.model.name}`, about {minutes:.1f} minutes a round "
        f"({steps} steps), {peak / 1e6:.0f}{room} MB of memory at most"
    )
    hint = "" if task else "The server could not be asked for its network: these are a default run's."
    figures = {"seconds_per_step": seconds, "steps": float(steps), "minutes_per_round": minutes, "peak_bytes": peak}
    return Finding("training", ok=True, text=text, hint=hint, figures={**figures, "batch_size": float(batch)})


def _assumed(config: ClientConfig, folder: Path) -> TaskConfig:
    return TaskConfig.of(RunConfig(), run="check", server_round=1, classes=_own_classes(config, folder))


def _own_classes(config: ClientConfig, folder: Path) -> tuple[str, ...]:
    classes = tuple(survey(config.data, folder))
    if len(classes) < 2:
        raise ConfigError(f"The site has {len(classes)} class, and a network needs two to tell apart.")
    return classes


def _trained(model: nn.Module, images: ImageSet, task: TaskConfig, steps: int) -> TrainingOutcome:
    """Take steps with all images, privately where the run asks for it."""
    settings, batch = task.training.model_copy(update={"steps": steps}), len(images)
    if task.privacy.noise is None:
        smallest = min(task.minimum_batch, batch)
        return train(model, images, settings, batch_size=batch, minimum_batch=smallest, seed=1)
    from fedwon.client.training.private import Mechanism, planned, train_privately  # needs Opacus

    plan = planned(batch, batch, settings, task.privacy.noise)
    mechanism = Mechanism(task.privacy.clip, task.privacy.noise)
    return train_privately(model, images, settings, plan, mechanism, seed=1)


def _timed(config: ClientConfig, task: TaskConfig, batch: int) -> float:
    """Train some steps on noise, which takes as long as on images; return the seconds of one."""
    if config.threads:
        torch.set_num_threads(config.threads)
    size, channels = task.images.size, task.images.channels
    try:
        pixels = torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8)
        labels = torch.arange(batch) % len(task.classes)
        images = ImageSet(task.classes, labels, Preparation(task.images), pixels, None, tuple(range(batch)))
        model = network(task)
        _trained(model, images, task, 1)  # the first one takes longer
        return _trained(model, images, task, STEPS).seconds / STEPS
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"A step of {batch} images does not fit into the memory.") from None
