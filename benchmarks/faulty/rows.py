"""One row: a federation in which one line has a fault for some rounds, from its settings to curves."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import Context, Message
from PIL import Image

from benchmarks.faulty.cameras import FAULTS, NEW, VANISHED, Fault, Images, Labels, Seen
from benchmarks.resumable import kept
from fedwon.client.app import app, read_task
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.config import parse
from fedwon.common.errors import FedwonError
from fedwon.common.flower import incoming
from fedwon.common.run_config import RunConfig
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.rounds.site_grid import metrics_of
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

ROUNDS, FIRST, LAST = 18, 8, 13
"""Of the run; the first and the last round that are trained with the fault."""
METHODS = ("fedwon", "fedavg", "fedbn")
SEEDS = (1, 2, 3)
RESULTS = Path(__file__).resolve().parents[1] / "results" / "faults"
OWN, OTHERS, CLASS = "own", "others", "class"
"""Test images of the faulty line as it sees them, of the other lines, and of the class in question at all lines."""


@dataclass(frozen=True)
class Kind:
    """An image set, dealt to a few lines.

    Attributes:
        words: for the page.
        lines: names of the lines.
        faulty: the one with the fault.
        classes: of the federation; the new one comes second, the vanishing one first.
        train: images of a line, at most.
        test: test images of a line, at most.
        settings: of the run, besides what all have.
    """

    words: str
    lines: tuple[str, ...]
    faulty: str
    classes: tuple[str, ...]
    train: int
    test: int
    settings: Mapping[str, Any]


_TILE_CLASSES = ("blowhole", "break", "crack", "fray", "free", "uneven")
_STRIP_CLASSES = ("scratches", "inclusion", "crazing", "patches", "pitted", "rolled_in_scale")
_GREY = {"images": {"size": 28, "channels": 1}, "model": {"width": 0.1}}
SETS: Mapping[str, Kind] = {
    "digits": Kind(
        "Digits-Five: five domains, a line each",
        ("mnist", "mnist_m", "svhn", "synth_like", "usps"),
        "mnist_m",
        tuple(map(str, range(10))),
        200,
        100,
        {"images": {"size": 28, "channels": 3}, "model": {"width": 0.1}},
    ),
    "tiles": Kind(
        "magnetic tiles: six exposures, a line each (70 % are free of defects: always saying so is right in 70 %)",
        tuple(f"exp{number}" for number in range(1, 7)),
        "exp3",
        _TILE_CLASSES,
        130,
        50,
        _GREY,
    ),
    "strip": Kind(
        "NEU: hot-rolled steel strip, dealt to five lines",
        tuple(f"line-{number}" for number in range(1, 6)),
        "line-3",
        _STRIP_CLASSES,
        200,
        100,
        _GREY,
    ),
}


@dataclass(frozen=True)
class Spec:
    """What tells one row from another."""

    images: str
    fault: str
    method: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the row is kept."""
        return RESULTS / f"{self.images}-{self.fault}-{self.method}-{self.seed}.json"

    @property
    def kind(self) -> Kind:
        """Its images."""
        return SETS[self.images]

    @property
    def what(self) -> Fault:
        """Its fault."""
        return FAULTS[self.fault]

    def faulty_in(self, number: int) -> bool:
        """Tell whether the line has the fault in a round."""
        return number >= FIRST and (self.what.lasts or number <= LAST)

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        fedwon = {"clipping": 0.16} if self.method == "fedwon" else {}
        lines = len(self.kind.lines)
        settings = {
            "method": self.method,
            "seed": self.seed,
            "rounds": ROUNDS,
            "classes": list(self.kind.classes),
            "training": {"batch_size": 10, "lr": 0.1, **fedwon},
            "participation": {"minimum": lines, "quorum": 2, "retries": 0, "pause_seconds": None},
            "traffic": {"up": "plain", "down": "plain"},
        }
        return parse(RunConfig, {**settings, **self.kind.settings}, "faults")


def every(seeds: tuple[int, ...] = SEEDS) -> Iterator[Spec]:
    """Yield all rows: the first seed first, and of that Digits-Five."""
    for seed, images, fault, method in itertools.product(seeds, SETS, FAULTS, METHODS):
        yield Spec(images, fault, method, seed)


def run(spec: Spec, source: Path) -> dict[str, Any]:
    """Return a row: from its file, or by running it.

    Args:
        spec: which row.
        source: the folder with all image sets.
    """
    return kept(spec, lambda spec: _made(spec, source))


def _made(spec: Spec, source: Path) -> dict[str, Any]:
    with TemporaryDirectory(prefix="faults-") as scratch:
        folder = Path(scratch)
        line = FaultyLines(spec, deal(spec, source), folder / "images")
        store = Store(folder / "fedwon.db")
        grid = InProcessGrid(line.sites, Path.cwd(), line)  # type: ignore[arg-type]  # called as a ClientApp is
        failed = None
        try:
            federate(grid, spec.config(), store, folder)
        except FedwonError as error:
            failed = error.message
        store.close()
    return {"failed": failed, "curves": line.curves(), "seen": line.seen}


Dealt = Mapping[str, Mapping[str, tuple[Images, Labels]]]
"""Images and labels by line and part."""


def deal(spec: Spec, source: Path) -> Dealt:
    """Read each line's images and part off its test images, by the seed.

    Args:
        spec: the row.
        source: the folder with all image sets.
    """
    kind, dealt = spec.kind, {}
    for index, name in enumerate(kind.lines):
        rng = np.random.default_rng([spec.seed, index])
        if spec.images == "digits":
            sizes = {"train": kind.train, "test": kind.test}
            dealt[name] = {
                part: _drawn(source / "digits_five" / f"{name}_{part}.npz", most, rng) for part, most in sizes.items()
            }
        else:
            files = _files(spec, source, index)
            dealt[name] = _parted([(path, label) for path, label in files], kind, rng)
    return dealt


def _drawn(path: Path, count: int, rng: np.random.Generator) -> tuple[Images, Labels]:
    with np.load(path, allow_pickle=False) as file:
        labels = file["labels"]
        rows = rng.permutation(len(labels))[:count]
        images = file["images"][rows]
    return (images if images.ndim == 4 else images[..., None]), labels[rows].astype(np.int64)


def _files(spec: Spec, source: Path, index: int) -> list[tuple[Path, int]]:
    """Return the files of a line: a folder of tiles, or every fifth image of the strip."""
    kind = spec.kind
    folder = source / ("magnetic_tile" if spec.images == "tiles" else "neu_cls/hot_rolled_strip")
    folder = folder / kind.lines[index] if spec.images == "tiles" else folder
    found = []
    for label, name in enumerate(kind.classes):
        files = sorted((folder / name).iterdir())
        if spec.images == "strip":
            shuffled = np.random.default_rng(spec.seed).permutation(len(files))[index :: len(kind.lines)]
            files = [files[place] for place in sorted(shuffled)]
        found += [(path, label) for path in files]
    return found


def _parted(
    files: Sequence[tuple[Path, int]], kind: Kind, rng: np.random.Generator
) -> dict[str, tuple[Images, Labels]]:
    """Part files into training and test images, class by class."""
    rows: dict[str, list[int]] = {"train": [], "test": []}
    labels = np.array([label for _, label in files])
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        cut = max(1, round(len(mine) * kind.test / (kind.train + kind.test)))
        rows["test"] += mine[:cut].tolist()
        rows["train"] += mine[cut:].tolist()
    made = {}
    for part, most in (("train", kind.train), ("test", kind.test)):
        chosen = rng.permutation(rows[part])[:most]
        made[part] = (np.stack([_read(files[row][0]) for row in chosen]), labels[chosen].astype(np.int64))
    return made


def _read(path: Path) -> Images:
    """Read an image as grey, (56, 56, 1): twice the size of the network's, for a camera sees more than that."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((56, 56)))[..., None]


class FaultyLines:
    """Stands in place of a site's app: trains on what the line has in that round, and first measures the model.

    Args:
        spec: the row.
        dealt: every line's images.
        folder: where they are put, a folder `<class>/<row>.png` a state, so that images keep their names.
    """

    def __init__(self, spec: Spec, dealt: Dealt, folder: Path) -> None:
        self._spec, self._dealt, self._folder = spec, dealt, folder
        self._found: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        self.seen: dict[str, list[tuple[int, int, float]]] = {name: [] for name in spec.kind.lines}
        self._known = {name: self._state(name, 0) for name in spec.kind.lines}
        self.sites = {name: SiteConfig(data=data, threads=1) for name, data in self._known.items()}
        shown = self._spec.fault in {"vanished_class", "new_class"}
        self._class = [self._class_folder()] if shown else []

    def __call__(self, message: Message, context: Context) -> Message:
        """Do a task of a site."""
        name = str(context.node_config["site"])
        number = read_task(message)[1].round
        if message.metadata.message_type != "train":
            return app(message, context)
        data = self._state(name, number) if name == self._spec.kind.faulty else self._known[name]
        self._measure(message, context, name, number, data)
        reply: Message = app(message, _with(context, data))
        told = metrics_of(reply.content)
        self.seen[name].append(
            (int(told["validation-correct"]), int(told["validation-examples"]), round(told["validation-loss"], 4))
        )
        return reply

    def _measure(self, message: Message, context: Context, name: str, number: int, data: DataConfig) -> None:
        """Measure the model that came, which the round before made, on the test images of this line."""
        self._count(OWN if name == self._spec.kind.faulty else OTHERS, message, context, number, data)
        for test in self._class:
            if name == self._spec.kind.faulty:
                self._count(CLASS, message, context, number, data.model_copy(update={"test": test}))

    def _count(self, what: str, message: Message, context: Context, number: int, data: DataConfig) -> None:
        told = message.metadata
        asked = incoming(
            message.content, "evaluate", node_id=told.dst_node_id, message_id=told.message_id, group_id=told.group_id
        )
        found = metrics_of(app(asked, _with(context, data)).content)
        self._found[what][number].append((int(found["test-correct"]), int(found["test-examples"])))

    def curves(self) -> dict[str, list[float]]:
        """Return accuracies by what was measured: of the model that each round started from."""
        return {
            what: [
                round(sum(right for right, _ in counts) / max(sum(count for _, count in counts), 1), 4)
                for _, counts in sorted(rounds.items())
            ]
            for what, rounds in self._found.items()
        }

    def _state(self, name: str, number: int) -> DataConfig:
        """Return where the images of a line lie in a round; they are put there once."""
        spec = self._spec
        faulty = name == spec.kind.faulty and spec.faulty_in(number)
        path = self._folder / name / (f"round-{number}" if faulty else "good")
        if not path.exists():
            for part in ("train", "test"):
                images, labels = self._dealt[name][part]
                if faulty and (part == "train" or spec.what.visible):
                    rng = np.random.default_rng([spec.seed, len(part)])
                    found = spec.what.change(images, labels, number - FIRST, rng)
                else:
                    found = Seen(images, labels, np.ones(len(images), dtype=np.bool_))
                self._put(path / part, self._without_new(found, name, number) if part == "train" else found)
        return DataConfig(path=str(path / "train"), test=str(path / "test"))

    def _without_new(self, found: Seen, name: str, number: int) -> Seen:
        """Take out the class that is still unknown; from its first round on, the faulty line has it."""
        spec = self._spec
        if spec.fault != "new_class" or (name == spec.kind.faulty and spec.faulty_in(number)):
            return found
        return found._replace(there=found.there & (found.labels != NEW))

    def _class_folder(self) -> str:
        """Put the test images of the class in question, of all lines, into one folder; return it."""
        wanted, path = NEW if self._spec.fault == "new_class" else VANISHED, self._folder / "class"
        for name, parts in self._dealt.items():
            images, labels = parts["test"]
            self._put(path, Seen(images, labels, labels == wanted), f"{name}-")
        return str(path)

    def _put(self, folder: Path, found: Seen, prefix: str = "") -> None:
        for row in np.flatnonzero(found.there):
            place = folder / self._spec.kind.classes[found.labels[row]]
            place.mkdir(parents=True, exist_ok=True)
            pixels = found.images[row]
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
                place / f"{prefix}{row:04d}.png", compress_level=1
            )


def _with(context: Context, data: DataConfig) -> Context:
    own = {"data.path": data.path, "data.test": str(data.test)}
    return replace(context, node_config={**context.node_config, **own})
