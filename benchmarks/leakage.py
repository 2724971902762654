"""What an update shows of the images in it: `python -m benchmarks.leakage [--images 12] [--only TEXT] [--json]`.

A curious server has the global model, knows how the site trains, and gets its update. It attacks in two ways at once:

- analytic: the update of the first linear layer is a sum of outer products, one an image and step, so its rows span
  what the convolutions made of the images (Phong et al. 2017; with one image that is known exactly, up to its scale);
- by optimization: images are sought whose convolutions lie in that span and whose gradient points where the update
  does (Zhu et al. 2019, arXiv:1906.08935; Geiping et al. 2020, arXiv:2003.14053), unit by unit, since adaptive
  clipping changes lengths and not directions.

It is given the labels, and the mean of other images of the same class to start from: a competitor has similar parts.
The updates are made by the client's own training and codecs, on digits of FEDWON_DATA.

What was found is paired with the images, one for one, and told in two numbers: the structural similarity (SSIM, Wang et
al. 2004), beside that of the mean that the attack began with; and the share of images that are recognized, that is,
what was found is nearer to the image than to any of 99 others of its class (by chance: 1 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it

from benchmarks.paper.sets import data_home
from fedwon.client.images.image_set import Batch
from fedwon.client.training.local import train
from fedwon.client.training.private import Mechanism, planned, train_privately
from fedwon.common.codec.coding import decode, encode
from fedwon.common.config import parse
from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.server.engines.simulating import versions

ROOT = Path(__file__).resolve().parent
RESULT, PICTURE = ROOT / "results" / "leakage.json", ROOT.parent / "docs" / "curves" / "leakage.png"
CLASSES = tuple("0123456789")
SHOWN = 6
"""Images of a case in the picture."""
ITERATIONS, RATE, SMOOTH = 400, 0.05, 0.03
"""Of the attack: steps of Adam, their size, and the weight of total variation."""
OTHERS = 99
"""Images of the same class that a recognized one is told from."""


@dataclass(frozen=True)
class Case:
    """One kind of update.

    Attributes:
        images: that the update is made of.
        batch: images a step.
        epochs: passes over them.
        method: as in a run.
        codec: the update's.
        noise: standard deviation of Gaussian noise on each number, as a share of the update's root mean square.
        private: noise multiplier of private training (`privacy.examples.noise`) with `clip` 1; 0: not private.
    """

    images: int
    batch: int
    epochs: int = 1
    method: str = "fedwon"
    codec: str = "plain"
    noise: float = 0.0
    private: float = 0.0

    @property
    def steps(self) -> int:
        """Optimizer steps in the update."""
        return self.epochs * -(-self.images // self.batch)


CASES: Mapping[str, Case] = {
    "1 image, 1 step": Case(1, 1),
    "1 image, 1 step, group norm": Case(1, 1, method="fedavg_gn"),
    "1 image, 1 step, int8": Case(1, 1, codec="int8"),
    "1 image, 1 step, topk": Case(1, 1, codec="topk"),
    "1 image, 1 step, noise 1": Case(1, 1, noise=1.0),
    "1 image, 1 step, noise 10": Case(1, 1, noise=10.0),
    "1 image, 1 step, private, noise 0.1": Case(1, 1, private=0.1),
    "1 image, 1 step, private, noise 1": Case(1, 1, private=1.0),
    "8 images, 1 step, private, noise 1": Case(8, 8, private=1.0),
    "1 image, 8 steps": Case(1, 1, epochs=8),
    "4 images, 1 step": Case(4, 4),
    "8 images, 8 steps of 1": Case(8, 1),
    "8 images, 1 step (or the sum of 8 sites)": Case(8, 8),
    "8 images, 1 step, batch norm": Case(8, 8, method="fedavg"),
    "32 images, 1 step": Case(32, 32),
    "32 images, 32 steps of 1": Case(32, 1),
}


class Few:
    """Images as training takes them.

    Args:
        pixels: (N, 1, S, S), prepared.
        labels: (N).
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels, self.classes = pixels, labels, CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the images of these rows, batch by batch."""
        for some in rows:
            yield Batch(self.pixels[list(some)], self.labels[list(some)])


def task_of(case: Case, seed: int) -> TaskConfig:
    """The task that a site would be given."""
    config = parse(
        RunConfig,
        {
            "method": case.method,
            "seed": seed,
            "model": {"name": "digit_cnn", "width": 0.1},
            "images": {"size": 28, "channels": 1, "mean": [0.5], "std": [0.5]},
            "training": {"lr": 0.01, "epochs": case.epochs, "batch_size": case.batch},
        },
        "benchmarks.leakage",
    )
    return TaskConfig.of(config, run="leakage", server_round=1, classes=CLASSES)


def update_of(case: Case, task: TaskConfig, secret: Few, seed: int) -> dict[str, Tensor]:
    """What the server sees: by parameter, the way from the global model to what the site sent."""
    model = network(task)
    before = record_of(model)
    if case.private:
        plan = planned(len(secret), case.batch, task.training, case.private)
        train_privately(model, secret, task.training, plan, Mechanism(1.0, case.private), seed=seed)  # type: ignore[arg-type]
    else:
        train(model, secret, task.training, batch_size=case.batch, minimum_batch=task.minimum_batch, seed=seed)  # type: ignore[arg-type]
    sent = record_of(model)
    if case.codec != "plain":
        parts, _ = encode(sent, before, case.codec, f"{seed}", ArrayRecord())
        sent = decode(parts, before)
    rng = np.random.default_rng(seed)
    names = [name for name, _ in network(task).named_parameters()]
    moved = {name: before[name].numpy().astype(np.float64) - sent[name].numpy() for name in names}
    size = np.sqrt(sum(float((part**2).sum()) for part in moved.values()) / sum(part.size for part in moved.values()))
    noisy = {name: part + rng.normal(0, case.noise * size, part.shape) for name, part in moved.items()}
    return {name: torch.from_numpy(part).float() for name, part in noisy.items()}


def _distance(gradients: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> Tensor:
    """One less the cosine of each unit's gradient with its part of the update, weighed by how far that moved."""
    total, weight = torch.zeros(()), torch.zeros(())
    for name, gradient in gradients.items():
        here = gradient.flatten(1) if gradient.dim() > 1 else gradient[None]
        there = update[name].flatten(1) if gradient.dim() > 1 else update[name][None]
        size = there.norm(dim=1)
        total = total + (size * (1 - F.cosine_similarity(here, there, dim=1, eps=1e-12))).sum()
        weight = weight + size.sum()
    return total / weight


def _variation(pixels: Tensor) -> Tensor:
    return pixels.diff(dim=2).abs().mean() + pixels.diff(dim=3).abs().mean()


def _span(update: Mapping[str, Tensor], images: int) -> Tensor:
    """What the first linear layer's update spans: orthonormal directions (images, features), strongest first."""
    weight = next(part for name, part in update.items() if name.startswith("fc1") and part.dim() == 2)
    return torch.linalg.svd(weight, full_matrices=False).Vh[:images]


def _outside(features: Tensor, span: Tensor, *, standardized: bool) -> Tensor:
    """Mean share of the features' (N, F) length outside a span; a standardized layer does not show their mean."""
    if standardized:
        features = features - features.mean(dim=1, keepdim=True)
    inside = (features @ span.T).norm(dim=1)
    return (1 - inside / features.norm(dim=1).clamp(min=1e-12)).mean()


def invert(model: nn.Module, update: Mapping[str, Tensor], labels: Tensor, start: Tensor, steps: int) -> Tensor:
    """Look for images (N, 1, 28, 28), as the network gets them, that explain an update.

    Args:
        model: with the global weights.
        update: by parameter, from what the site sent to the global model.
        labels: of the images, (N).
        start: what the attacker thinks that they look like, (N, 1, 28, 28).
        steps: that the update is made of.
    """
    torch.manual_seed(0)
    seen: list[Tensor] = []
    hook = model.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr, operator]
    guess = (start + 0.05 * torch.randn_like(start)).requires_grad_()
    adam = torch.optim.Adam([guess], lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ITERATIONS)
    parameters, span = dict(model.named_parameters()), _span(update, max(steps, len(labels)))
    model.train()
    for _ in range(ITERATIONS):
        loss = F.cross_entropy(model(guess), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        distance = _distance(dict(zip(parameters, gradients, strict=True)), update)
        distance = (
            distance
            + _outside(seen.pop().flatten(1), span, standardized="fc1.linear.gain" in update)
            + SMOOTH * _variation(guess)
        )
        (guess.grad,) = torch.autograd.grad(distance, [guess])
        adam.step()
        falling.step()
        with torch.no_grad():
            guess.clamp_(-1, 1)
    hook.remove()
    return guess.detach()


def ssim(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Structural similarity of two images (S, S) with values from 0 to 1; Gaussian windows of 1.5 pixels."""
    first, second = 0.01**2, 0.03**2
    blur = lambda image: gaussian_filter(image, 1.5, truncate=3.5)  # noqa: E731
    mean_one, mean_other = blur(one), blur(other)
    spread = blur(one * one) - mean_one**2, blur(other * other) - mean_other**2
    shared = blur(one * other) - mean_one * mean_other
    top = (2 * mean_one * mean_other + first) * (2 * shared + second)
    return float((top / ((mean_one**2 + mean_other**2 + first) * (spread[0] + spread[1] + second))).mean())


def matched(originals: Tensor, guesses: Tensor) -> tuple[list[float], list[int]]:
    """The SSIM of each image to the guess that is its own when each has one; and which that is."""
    shown = [((pixels[:, 0].double() + 1) / 2).numpy() for pixels in (originals, guesses)]
    table = np.array([[ssim(one, other) for other in shown[1]] for one in shown[0]])
    rows, columns = linear_sum_assignment(-table)
    return [float(table[row, column]) for row, column in zip(rows, columns, strict=True)], list(columns)


def digits() -> tuple[Tensor, Tensor]:
    """MNIST's training images as the network gets them, and their labels."""
    with np.load(data_home() / "digits_five" / "mnist_train.npz", allow_pickle=False) as stored:
        pixels, labels = stored["images"], stored["labels"]
    grey = torch.from_numpy(np.asarray(pixels, dtype=np.float32).reshape(len(labels), 28, 28, -1).mean(-1) / 255)
    return grey[:, None] * 2 - 1, torch.from_numpy(np.asarray(labels).astype(np.int64))


def recognized(image: Tensor, found: Tensor, others: Tensor) -> bool:
    """Whether what was found goes better with the image than with any of the others, by correlation."""
    flat = torch.cat([image[None], others]).flatten(1)
    likeness = torch.corrcoef(torch.cat([found.flatten()[None], flat]))[0, 1:]
    return int(likeness.argmax()) == 0


def play(case: Case, seed: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Make an update, attack it, and score what was found; also returns the images and what was found, in pairs."""
    pixels, labels = digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen, known, unseen = order[: case.images], order[case.images : 3000], order[3000:8000]
    secret, task = Few(pixels[chosen], labels[chosen]), task_of(case, seed)
    start = torch.stack([pixels[known][labels[known] == label].mean(0) for label in secret.labels])
    update = update_of(case, task, secret, seed)
    found = invert(network(task), update, secret.labels, start, case.steps)
    scores, pairs = matched(secret.pixels, found)
    found = found[pairs]
    others = [pixels[unseen][labels[unseen] == label][:OTHERS] for label in secret.labels]
    row = {
        "seed": seed,
        "steps": case.steps,
        "ssim": scores,
        "blind": matched(secret.pixels, start)[0],
        "recognized": [recognized(*three) for three in zip(secret.pixels, found, others, strict=True)],
    }
    return row, secret.pixels, found


def measure(least: int, only: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, tuple[Tensor, Tensor]]]:
    """Play every case whose name holds a text until it has so many images; the pictures are of the first ones."""
    rows: dict[str, list[dict[str, Any]]] = {}
    pictures = {}
    for name, case in CASES.items():
        if only not in name:
            continue
        played = [play(case, seed) for seed in range(1, -(-least // case.images) + 1)]
        rows[name] = [row for row, *_ in played]
        originals, found = (torch.cat([one[part] for one in played])[:SHOWN] for part in (1, 2))
        pictures[name] = (originals, found)
    return rows, pictures


def page(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of docs/privacy.md."""
    lines = ["| update | steps | recognized | SSIM | SSIM of the mean | images |", "|---|---|---|---|---|---|"]
    for name, played in rows.items():
        scores, blind, known = ([one for row in played for one in row[key]] for key in ("ssim", "blind", "recognized"))
        share, means = 100 * statistics.mean(known), [statistics.mean(part) for part in (scores, blind)]
        lines.append(
            f"| {name} | {played[0]['steps']} | {share:.0f} % | {means[0]:.2f} | {means[1]:.2f} | {len(known)} |"
        )
    return "\n".join(lines)


def draw(pictures: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Draw each case as two rows: the images, and what was found of them."""
    space, side = 4, 28
    sheet = np.full((len(pictures) * (2 * side + 3 * space), SHOWN * (side + space)), 255, dtype=np.uint8)
    for index, pair in enumerate(pictures.values()):
        for line, images in enumerate(pair):
            top = index * (2 * side + 3 * space) + line * (side + space)
            for column, image in enumerate(images):
                grey = ((image[0] + 1) * 127.5).round().to(torch.uint8).numpy()
                sheet[top : top + side, column * (side + space) :][:, :side] = grey
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Attack, keep, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12, help="of each case, at least")
    parser.add_argument("--only", default="", help="only cases whose name holds this text; the others stay as kept")
    parser.add_argument("--keep", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, pictures = measure(chosen.images, chosen.only)
    if chosen.only and chosen.keep.exists():
        kept = json.loads(chosen.keep.read_text(encoding="utf-8"))["cases"] | rows
        rows = {name: kept[name] for name in CASES if name in kept}
    result = {"cases": rows, "iterations": ITERATIONS, "versions": versions()}
    chosen.keep.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if not chosen.only:  # the picture shows all cases
        draw(pictures, PICTURE if chosen.keep == RESULT else chosen.keep.with_suffix(".png"))
    print(json.dumps(result) if chosen.json else page(rows))


if __name__ == "__main__":
    main()
