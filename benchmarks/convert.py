"""How exactly known networks convert: `python -m benchmarks.convert [--network resnet18] [--threads 1]`.

For each network, with random weights and random batch norm statistics (see `with_statistics`; no pretrained weights are
fetched): what its normalization becomes, and the largest difference of the converted network's output on random images
in evaluation mode, over the largest output. Beside it stands the original's own rounding: how far its float32 output is
from its float64 output. timm's networks are tried where timm is installed. Writes `benchmarks/results/convert.json` and
prints the table of docs/convert.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedwon.models.convert import convert, detect, largest_difference
from fedwon.models.fold import fold
from fedwon.models.outside_networks import is_outside, original
from fedwon.server.engines.simulating import versions

RESULT = Path(__file__).resolve().parent / "results" / "convert.json"
NETWORKS = (
    *("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "densenet121"),
    "convnext_tiny",
)
_TIMMS = (
    *("resnet18", "seresnet18", "skresnet18", "res2net50_26w_4s", "resnest14d", "regnety_004", "densenet121", "dla34"),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "efficientnet_b0", "tf_efficientnet_b0"),
    *("mnasnet_100", "fbnetc_100", "ghostnet_100", "lcnet_050", "rexnet_100"),
    *("repvgg_a0", "mobileone_s0", "fastvit_t8"),
    *("hrnet_w18_small", "cspdarknet53", "vovnet39a", "selecsls42", "legacy_xception"),
)
TIMM = tuple(f"timm:{name}" for name in _TIMMS)


def build(name: str) -> nn.Module:
    """A network of torchvision's, or of timm's after `timm:`, with random weights."""
    return original(name if is_outside(name) else f"torchvision:{name}")


def with_statistics(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Give batch norm layers the statistics and weights of a network that has been somewhere.

    Scales are drawn from Normal(1, 0.3), one in seven negative and one in eleven 0, shifts from Normal(0, 0.3). The
    running statistics are those of the images, the means then moved by Normal(0, 0.2) deviations and the variances
    multiplied by 0.6 to 1.6. Draws from torch's generator.

    Args:
        model: Changed in place, and put into evaluation mode.
        images: What it is run on, in training mode.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(1, 0.3)
            layer.weight[::7] *= -1
            layer.weight[::11] = 0
            layer.bias.normal_(0, 0.3)
            layer.momentum = 1.0
        model.train()(images)
        for layer in layers:
            layer.momentum = 0.1
            layer.running_mean += 0.2 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
            layer.running_var *= torch.empty_like(layer.running_var).uniform_(0.6, 1.6)
    return model.eval()


def measure(name: str, size: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Convert one network and compare.

    Args:
        name: As `build`.
        size: Side of the images, in pixels.
        batch: Number of images.
        seed: Of weights, statistics and images.
    """
    torch.manual_seed(seed)
    images = torch.randn(batch, 3, size, size)
    model = with_statistics(build(name), images)
    forms = Counter(finding.form for finding in detect(model))
    started = time.perf_counter()
    converted = convert(model, calibration=images if forms["measured"] else None)
    seconds = time.perf_counter() - started
    precise = copy.deepcopy(model).double()
    with torch.no_grad():
        own = model(images).double(), precise(images.double())
    return {
        "layers": dict(forms),
        "difference": largest_difference(model, converted, images),
        "own_rounding": float((own[0] - own[1]).abs().max() / own[1].abs().max()),
        "difference_float64": largest_difference(
            precise, convert(precise, calibration=images.double() if forms["measured"] else None), images.double()
        ),
        "folded": largest_difference(converted, fold(converted), images),
        "seconds": round(seconds, 2),
    }


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    heads = ("network", "normalization layers become", "difference", "original's own rounding", "in float64", "folded")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, row in found["networks"].items():
        forms = ", ".join(f"{count} {form}" for form, count in sorted(row["layers"].items()))
        keys = ("difference", "own_rounding", "difference_float64", "folded")
        figures = [f"{row[key]:.1e}" if row[key] else "0" for key in keys]
        lines.append(f"| {name} | {forms} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the figures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", help="torchvision's name, or timm's after `timm:`")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = arguments.network or [*NETWORKS, *(TIMM if find_spec("timm") else ())]
    found: dict[str, Any] = {"versions": versions(), "size": arguments.size, "batch": arguments.batch}
    found["networks"] = {name: measure(name, arguments.size, arguments.batch, arguments.seed) for name in names}
    if not arguments.network and (arguments.size, arguments.seed) == (224, 0):  # what docs/convert.md shows
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
