"""What an update shows of the images in it: `python -m benchmarks.leakage [--images 12] [--only TEXT] [--json]`.

A curious server has the global model, knows how the site trains, gets its update, and attacks it
(`benchmarks.leaking.inversion`). It is given the labels, and the mean of other images of the same class to start from:
a competitor has similar parts. The updates are made by the client's own training and codecs, on digits of FEDWON_DATA.

What was found is paired with the images, one for one, and told in two numbers: the structural similarity (SSIM, Wang et
al. 2004), beside that of the mean that the attack began with; and the share of images that are recognized, that is,
what was found is nearer to the image than to any of 99 others of its class (by chance: 1 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.leaking.inversion import ITERATIONS, invert
from benchmarks.leaking.likeness import matched, recognized
from benchmarks.leaking.picture import draw
from benchmarks.leaking.updates import CASES, Case, Few, task_of, update_of
from benchmarks.paper.sets import data_home
from fedwon.common.model_file import network
from fedwon.server.engines.simulating import versions

ROOT = Path(__file__).resolve().parent
RESULT, PICTURE = ROOT / "results" / "leakage.json", ROOT.parent / "docs" / "curves" / "leakage.png"
OTHERS = 99
"""Images of the same class that a recognized one is told from."""


def digits() -> tuple[Tensor, Tensor]:
    """MNIST's training images as the network gets them, and their labels."""
    with np.load(data_home() / "digits_five" / "mnist_train.npz", allow_pickle=False) as stored:
        pixels, labels = stored["images"], stored["labels"]
    grey = torch.from_numpy(np.asarray(pixels, dtype=np.float32).reshape(len(labels), 28, 28, -1).mean(-1) / 255)
    return grey[:, None] * 2 - 1, torch.from_numpy(np.asarray(labels).astype(np.int64))


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
    """Play every case whose name holds a text until it has so many images."""
    rows: dict[str, list[dict[str, Any]]] = {}
    pictures = {}
    for name, case in CASES.items():
        if only not in name:
            continue
        played = [play(case, seed) for seed in range(1, -(-least // case.images) + 1)]
        rows[name] = [row for row, *_ in played]
        originals, found = (torch.cat([one[part] for one in played]) for part in (1, 2))
        pictures[name] = (originals, found)
    return rows, pictures


def share(played: Sequence[Mapping[str, Any]]) -> float:
    """How many of a case's images were recognized, in %."""
    return 100 * statistics.mean(known for row in played for known in row["recognized"])


def page(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of docs/privacy.md."""
    lines = ["| update | steps | recognized | SSIM | SSIM of the mean | images |", "|---|---|---|---|---|---|"]
    for name, played in rows.items():
        scores, blind = ([one for row in played for one in row[key]] for key in ("ssim", "blind"))
        means = f"{statistics.mean(scores):.2f} | {statistics.mean(blind):.2f}"
        lines.append(f"| {name} | {played[0]['steps']} | {share(played):.0f} % | {means} | {len(scores)} |")
    return "\n".join(lines)


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
        notes = {name: f"{share(played):.0f} % recognized" for name, played in rows.items()}
        draw(pictures, notes, PICTURE if chosen.keep == RESULT else chosen.keep.with_suffix(".png"))
    print(json.dumps(result) if chosen.json else page(rows))


if __name__ == "__main__":
    main()
