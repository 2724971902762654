"""Squeeze and excitation: channels weighed by what the whole map shows.

Source: Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018, https://arxiv.org/abs/1709.01507), section 3. The
names of the parameters are torchvision's, so that its weights fit; torchvision itself loads too slowly for a site that
needs nothing else of it.
"""

import torch
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a number in (0, 1) that two 1x1 convolutions make of all channels' means.

    Args:
        channels: Of input and output.
        squeezed: Channels between the two convolutions.
        activation: Between them.
    """

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same shape."""
        gates = torch.sigmoid(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return gates * x
