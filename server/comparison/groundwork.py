"""From a folder of lines to what all runs of a comparison stand on; done once, and kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedwon.client.config import DataConfig
from fedwon.client.images.domains import discover
from fedwon.common.config import load, merged, read_yaml
from fedwon.common.errors import ConfigError
from fedwon.common.methods import METHODS, MethodName
from fedwon.server.comparison.dealing import deal_out, write_lines
from fedwon.server.comparison.facts import Obstacle, basis, facts
from fedwon.server.comparison.ledger import Ledger, subject_of
from fedwon.server.comparison.looking import identities, look, suggest_images
from fedwon.server.engines.simulating import SimulationConfig

DEFAULT_METHODS: tuple[MethodName, ...] = ("standalone", "fedavg", "fedbn", "fedwon")
IMAGES = "images"
_LOOK_SHARE = 0.2
_LEAST_STEPS, _BATCH, _MOST_EPOCHS = 20, 8, 3
_DECIDED_HERE = ("name", "method", "seed", "rounds", "classes", "participation", "domains", "sites", "threads")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        data: a folder of lines, or `digits`.
        folder: the comparison's own.
        budget: seconds.
        methods: to compare; each line alone is always among them.
        config: a run's configuration whose network, images and training are used; None: chosen by the images.
        since: moment on the monotonic clock from which the budget counts; None: from the start of the work.
    """

    data: str
    folder: Path
    budget: float
    methods: tuple[MethodName, ...] = DEFAULT_METHODS
    config: Path | None = None
    since: float | None = None


@dataclass(frozen=True)
class Groundwork:
    """What all runs stand on.

    Attributes:
        facts: what the look at the images found.
        obstacle: why nothing can be compared; None if something can.
        lines: data of the lines that take part, as the networks see it.
        classes: in the order of the network's outputs.
        settings: of every run's configuration.
        threads: CPU threads of PyTorch.
        again: whether an earlier call had done this.
    """

    facts: Mapping[str, Any]
    obstacle: Obstacle | None
    lines: Mapping[str, DataConfig]
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    threads: int
    again: bool


def asked_methods(names: str | None) -> tuple[MethodName, ...]:
    """Read `--methods`: names with commas between; each line alone is added, for it is what gains are measured by.

    Raises:
        ConfigError: there is no such method.
    """
    if names is None:
        return DEFAULT_METHODS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise ConfigError(f"There is no method `{unknown[0]}`.", hint=f"There are: {', '.join(METHODS)}.")
    found = tuple(name for name in METHODS if name in {"standalone", *wanted})
    if len(found) < 2:
        raise ConfigError("`--methods` names none to compare with each line alone.", hint="Such as: fedavg,fedwon.")
    return found


def prepare(request: Request, ledger: Ledger, base: Path) -> Groundwork:
    """Look at the images and deal them out, or take up what an earlier call found.

    Args:
        request: what is asked for.
        ledger: of the comparison's folder.
        base: folder that relative paths start at.

    Raises:
        DataError: there are no lines, or one of them cannot be listed.
        ConfigError: the configuration is not valid.
        FolderTaken: the folder holds another comparison.
    """
    given, domains = _asked(request)
    ledger.claim(subject_of({**given, "classes": None}, identities(domains, base)))
    kept = ledger.get("groundwork")
    if kept is not None:
        lines = {name: DataConfig.model_validate(data) for name, data in kept.pop("lines").items()}
        return Groundwork(**{**kept, "lines": lines, "classes": tuple(kept["classes"]), "again": True})
    made = _make(request, given, domains, base)
    kept = {key: getattr(made, key) for key in ("facts", "obstacle", "classes", "settings", "threads")}
    ledger.put("groundwork", {**kept, "lines": {name: data.model_dump() for name, data in made.lines.items()}})
    return made


def lines_of(request: Request) -> dict[str, DataConfig]:
    """Find the lines, before anything is made or written.

    Raises:
        DataError: there are none.
    """
    return _asked(request)[1]


def _asked(request: Request) -> tuple[dict[str, Any], dict[str, DataConfig]]:
    """What the configuration says, and the lines."""
    given: dict[str, Any] = {}
    only: Sequence[str] = ()
    if request.config is not None:
        config = load(SimulationConfig, request.config)
        only = config.domains or ()
        given = {key: value for key, value in read_yaml(request.config).items() if key not in _DECIDED_HERE}
        given |= {"pretrained": config.pretrained} if config.pretrained else {}
    return given, discover(request.data, only=only)


def _make(request: Request, given: Mapping[str, Any], domains: Mapping[str, DataConfig], base: Path) -> Groundwork:
    own_size = {"size", "channels"} & set(given.get("images", {}))
    suggested = {} if own_size else suggest_images(domains, base).model_dump(include={"size", "channels"})
    settings = merged({"images": {**suggested, "validation_fraction": 0.25}}, given)
    images = SimulationConfig.model_validate({"images": settings["images"]}).images
    looked = look(domains, base, images, seconds=_LOOK_SHARE * request.budget)
    dealt = deal_out(looked.lines)
    found = basis(looked.lines, dealt)
    usable = {name: looked.lines[name] for name in found.lines}
    lines = {} if found.obstacle else write_lines(usable, dealt, request.folder.resolve() / IMAGES)
    if "training" not in given and lines:
        settings = merged(_network(), settings, _training([len(dealt[name].train) for name in lines]))
    threads = load(SimulationConfig, request.config).threads if request.config else 1
    told = facts(looked, dealt, found)
    return Groundwork(told, found.obstacle, lines, found.classes, settings, threads, again=False)


def _network() -> dict[str, Any]:
    """Small: some hundred rounds have to fit into minutes on one core, and a line has few images."""
    return {"model": {"name": "digit_cnn", "width": 0.125}}


def _training(counts: Sequence[int]) -> dict[str, Any]:
    """Batches of eight, and as many epochs as make twenty steps a round, three at most."""
    steps = max(statistics.median(counts) * 0.75 / _BATCH, 1)
    epochs = int(np.clip(math.ceil(_LEAST_STEPS / steps), 1, _MOST_EPOCHS))
    return {"training": {"batch_size": _BATCH, "epochs": epochs, "schedule": "cosine"}}
