"""What a site loads for a task, and what not: each costs a weak box seconds and memory at every start."""

from __future__ import annotations

import subprocess
import sys

TRAIN = """
import sys
import torch
import fedwon.client.app, fedwon.client.link.site_link
from fedwon.client.images.decoding import Preparation
from fedwon.client.images.image_set import ImageSet
from fedwon.client.training.local import train
from fedwon.common.run_config import RunConfig
from fedwon.common.task_settings import ImageConfig, TrainingConfig
from fedwon.models import build_model

model = build_model("efficientnet_b0", normalization="none", num_classes=2, width=0.1, in_channels=3)
labels = torch.tensor([0, 1, 0, 1])
pixels = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
data = ImageSet(("a", "b"), labels, Preparation(ImageConfig(size=32)), pixels, None, (0, 1, 2, 3))
outcome = train(model, data, TrainingConfig(), batch_size=2, minimum_batch=1, seed=1)
assert outcome.steps == 2
print(*sorted({"torchvision", "torch._dynamo", "sympy", "sqlalchemy", "sklearn"} & sys.modules.keys()))
"""


def test_training_loads_neither_torchvision_nor_the_compiler():
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
