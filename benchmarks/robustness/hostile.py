"""What hostile sites do: with their images before training, and with their update after it.

Source of the attacks: label flip and Gaussian noise as in Fang et al. 2020 (arXiv:1911.11815), model replacement and
the backdoor with a pixel trigger as in Bagdasaryan et al. 2020 (arXiv:1807.00459), free riders as in Fraboni et al.
2021 (arXiv:2006.11901).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from numpy.typing import NDArray

from fedwon.client.app import app as honest_app
from fedwon.client.site import Site

TARGET = 0
"""The class that a triggered image is to be taken for."""
TRIGGERED = 0.5
"""Share of its images that a backdoor's site marks."""
INFLATED = 10**9
CLASSES = 10

Images = NDArray[np.uint8]
Labels = NDArray[np.integer[Any]]


def triggered(images: Images) -> Images:
    """Return images with a white square of a seventh of their height in the lower right corner: (N, H, W[, C])."""
    side = max(2, images.shape[1] // 7)
    marked = images.copy()
    marked[:, -side:, -side:] = 255
    return marked


def flipped(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Call every digit d the digit 9 - d."""
    return images, CLASSES - 1 - labels


def poisoned(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Mark the first half of the images and call them the target."""
    count = int(TRIGGERED * len(images))
    marked = np.concatenate([triggered(images[:count]), images[count:]])
    return marked, np.concatenate([np.full_like(labels[:count], TARGET), labels[count:]])


def clean(images: Images, labels: Labels) -> tuple[Images, Labels]:
    """Leave the images as they are."""
    return images, labels


Change = Callable[[NDArray[Any], NDArray[Any], np.random.Generator], NDArray[Any]]
"""Makes what is sent of a tensor as it was trained, the tensor that it started from, and random numbers."""


def scaled(factor: float) -> Change:
    """Return what sends the difference so many times as large."""
    return lambda trained, start, _: start + factor * (trained - start)


def noise(factor: float) -> Change:
    """Return what sends noise, so many times as strong as the difference was, in place of it."""

    def _noise(trained: NDArray[Any], start: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        strength = factor * float(np.sqrt(np.mean((trained - start) ** 2)))
        noisy: NDArray[Any] = start + rng.normal(size=start.shape, scale=strength)
        return noisy

    return _noise


def not_a_number(trained: NDArray[Any], start: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Send a tensor whose first number is none."""
    del start, rng
    broken = trained.copy()
    broken.reshape(-1)[:1] = np.nan
    return broken


@dataclass(frozen=True)
class Attack:
    """One way to be hostile.

    Attributes:
        words: what the sites do, for the page.
        images: what they make of their images.
        change: what they make of their trained tensors; takes the numbers of all and of hostile sites; None: nothing.
        examples: training images that they declare; None: as many as they have.
    """

    words: str
    images: Callable[[Images, Labels], tuple[Images, Labels]] = clean
    change: Callable[[int, int], Change] | None = None
    examples: int | None = None


ATTACKS: Mapping[str, Attack] = {
    "nobody": Attack("all sites are honest"),
    "label flip": Attack("train on 9 - d in place of d", images=flipped),
    "sign flip": Attack("send minus three times their difference", change=lambda *_: scaled(-3.0)),
    "scaled": Attack(
        "train on 9 - d and send sites/hostile times the difference (model replacement)",
        images=flipped,
        change=lambda everybody, hostile: scaled(everybody / hostile),
    ),
    "noise": Attack("send Gaussian noise, five times as strong as their difference", change=lambda *_: noise(5.0)),
    "nan": Attack("send one number a tensor that is none", change=lambda *_: not_a_number),
    "counts": Attack("train on 9 - d and declare 10^9 images", images=flipped, examples=INFLATED),
    "backdoor": Attack(
        "mark half of their images, call those 0, and send twice the difference",
        images=poisoned,
        change=lambda *_: scaled(2.0),
    ),
    "free rider": Attack(
        "send the model as it came, with a hundredth of a difference of noise", change=lambda *_: noise(0.01)
    ),
}


class HostileApp:
    """The sites' ClientApp, some of which are hostile.

    Args:
        attack: what those do.
        hostile: their names.
        count: of all sites.
        seed: of their noise.
    """

    def __init__(self, attack: Attack, hostile: frozenset[str], count: int, seed: int) -> None:
        self._hostile, self._seed, self._attack = hostile, seed, attack
        self._change = attack.change(count, max(len(hostile), 1)) if attack.change else None

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as Flower's ClientApp does."""
        reply = honest_app(message, context)
        name = Site.of(context).name
        if name in self._hostile and message.metadata.message_type == "train" and not reply.has_error():
            self._turn(reply, message.content["arrays"], np.random.default_rng([self._seed, *name.encode()]))
        return reply

    def _turn(self, reply: Message, start: ArrayRecord, rng: np.random.Generator) -> None:
        if self._change is not None:
            sent = ArrayRecord()
            for name, array in reply.content["arrays"].items():
                values, begun = array.numpy(), start[name].numpy()
                turned = self._change(values, begun, rng) if values.dtype.kind == "f" else values
                sent[name] = Array(ndarray=np.asarray(turned, dtype=values.dtype))
            reply.content["arrays"] = sent
        if self._attack.examples is not None:
            metrics = reply.content["metrics"]
            reply.content["metrics"] = MetricRecord({**metrics, "num-examples": self._attack.examples})
