"""fedwon as a library: a layer, a converted network, a strategy that Flower would take, and a federation in-process."""

from __future__ import annotations

import torch
from flwr.serverapp.strategy import FedAvg
from torchvision.models import resnet18

from fedwon.common import logs
from fedwon.common.config import parse
from fedwon.models import WSConv2d, convert, fold, is_normalization_free
from fedwon.server.engines.simulating import SimulationConfig, simulate
from fedwon.server.rounds.events import Event, RoundCommitted
from fedwon.server.rounds.strategy import FedWon

# 1. The layer: a Conv2d whose filters are standardized as they are used. One image is a legal batch.
layer = torch.nn.Sequential(WSConv2d(3, 8, 3, padding=1), torch.nn.ReLU())
images = torch.rand(1, 3, 32, 32)
print("folded alike:", torch.allclose(layer(images), fold(layer)(images), atol=1e-6))

# 2. A network that you have already, without its batch norm: the same function, and trainable at batch 1.
network = convert(resnet18(weights=None).eval(), example=images)
print("resnet18 without normalization:", is_normalization_free(network, images))


# 3. A federation of four lines on this machine, as `fedwon-server simulate` runs it.
def tell(event: Event) -> None:
    """Print each round's end."""
    if isinstance(event, RoundCommitted):
        print("round", event.number)


logs.setup("text", "warning")  # Flower tells each step otherwise
config = parse(SimulationConfig, {"rounds": 2, "model": {"width": 0.1}, "images": {"channels": 1}}, "library.py")
result = simulate(config, "digits", None, [tell])
for score in result.outcome.evaluation.scores:
    print(f"{score.site}: {100 * score.accuracy:.0f} %")
print("the strategy that ran is one of Flower's:", issubclass(FedWon, FedAvg))
