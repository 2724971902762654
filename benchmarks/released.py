"""What a released model costs a line: `python -m benchmarks.released [--json]`, some seconds.

* Resizing a colour photograph, with torch as in training and with NumPy as in a release (the same bits).
* From image files in memory to classes: images a second through preparation and onnxruntime, by network.
* The size of the installed packages: those of deploy/runtime.txt, and all of fedwon's.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement

from fedwon.client.images import decoding
from fedwon.common import pixels
from fedwon.common.release import INPUT, OUTPUT
from fedwon.common.scoring import OnnxModel, Scorer
from fedwon.common.task_settings import ImageConfig
from fedwon.models import build_model, fold
from fedwon.models.export import to_onnx
from fedwon.server.engines.simulating import versions
from tests.release.edge_box import needed

SIZES = ((512, 512, 64), (480, 640, 128), (1080, 1920, 224))
NETWORKS = (("digit_cnn", 0.25, 28), ("resnet18", 0.25, 64), ("mobilenet_v2", 1.0, 64))
REPEATS, IMAGES = 7, 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"versions": versions(), "resizing": resizing(), "predicting": predicting(), "packages": packages()}
    print(json.dumps(result, indent=2) if options.json else page(result))


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of some calls, after one that warms up."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def resizing() -> list[dict[str, float]]:
    """Time both forms of one resizing."""
    rows = []
    for height, width, size in SIZES:
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8).transpose(2, 0, 1)
        tensor = torch.from_numpy(image)
        if not np.array_equal(pixels.resized(image, size), decoding.resized(tensor, size).numpy()):
            raise RuntimeError("the two forms of resizing differ")
        torchs = milliseconds(lambda tensor=tensor, size=size: decoding.resized(tensor, size))
        numpys = milliseconds(lambda image=image, size=size: pixels.resized(image, size))
        rows.append({"height": height, "width": width, "size": size, "torch_ms": torchs, "numpy_ms": numpys})
    return rows


def predicting() -> list[dict[str, Any]]:
    """Time networks from decoded images of 640 x 480 to outputs, and the export of each."""
    rows = []
    for name, width, size in NETWORKS:
        model = fold(build_model(name, width=width, image_size=size)).eval()
        began = time.perf_counter()
        content = to_onnx(model, (3, size, size), (INPUT, OUTPUT))
        exported = time.perf_counter() - began
        images = np.random.default_rng(1).integers(0, 256, (IMAGES, 3, 480, 640), dtype=np.uint8)
        scorer = Scorer(OnnxModel(content, threads=1), ImageConfig(size=size))
        inputs = scorer.preparation.normalize(np.stack([scorer.preparation.fit(image) for image in images]))
        whole = milliseconds(lambda scorer=scorer, images=images: list(scorer.logits(images))) / IMAGES
        network = OnnxModel(content, threads=1)
        alone = milliseconds(lambda network=network, inputs=inputs: network.logits(inputs)) / IMAGES
        row = {"network": name, "width": width, "size": size, "export_s": exported, "megabytes": len(content) / 1e6}
        rows.append({**row, "image_ms": whole, "network_ms": alone})
    return rows


def packages() -> dict[str, float]:
    """Megabytes that packages take on the disk, without fedwon's own."""
    return {"predicting_mb": _size(set(needed())), "everything_mb": _size(_closure("fedwon"))}


def _closure(root: str) -> set[str]:
    found, left = set(), [root]
    while left:
        name = left.pop()
        try:
            asked = map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:
            continue
        found.add(name)
        here = [need for need in asked if need.marker is None or need.marker.evaluate({"extra": ""})]
        left += [n for need in here if (n := re.sub(r"[-_.]+", "-", need.name).lower()) not in found]
    return found - {root}


def _size(names: set[str]) -> float:
    files = {file.locate() for name in names for file in distribution(name).files or []}
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def page(result: dict[str, Any]) -> str:
    """Return the tables of docs/performance.md."""
    lines = ["| photograph | to | torch, ms | NumPy, ms |", "|---|---|---|---|"]
    for row in result["resizing"]:
        shape = f"{row['width']} x {row['height']}"
        lines.append(f"| {shape} | {row['size']} | {row['torch_ms']:.2f} | {row['numpy_ms']:.1f} |")
    head = "| network | width | side | file, MB | export, s | a photograph of 640 x 480, ms | of it the network |"
    lines += ["", head, "|---|---|---|---|---|---|---|"]
    for row in result["predicting"]:
        cells = [row["network"], f"{row['width']:g}", f"{row['size']}", f"{row['megabytes']:.1f}"]
        cells += [f"{row[key]:.1f}" for key in ("export_s", "image_ms", "network_ms")]
        lines.append(f"| {' | '.join(cells)} |")
    sizes = result["packages"]
    lines.append(f"\nPackages: {sizes['predicting_mb']:.0f} MB to predict, {sizes['everything_mb']:.0f} MB for all.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
