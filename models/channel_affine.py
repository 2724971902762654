"""A scale and a shift per channel: what a normalization with constant statistics is, without the statistics.

References:
    Ioffe and Szegedy, "Batch normalization", ICML 2015 (arXiv 1502.03167), section 3.1: at inference batch norm is
    this linear transform.
"""

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """``x * scale + shift`` along one dimension. Nothing is measured: no batch, no example changes the function.

    Args:
        scale: ``(C,)``, the initial scale; copied.
        shift: ``(C,)``, the initial shift; copied.
        dim: The channels' dimension of the input, from the front (1: ``(N, C, ...)``) or the back (-1:
            ``(..., C)``).

    Raises:
        ValueError: scale and shift are not two vectors of one length.
    """

    def __init__(self, scale: Tensor, shift: Tensor, dim: int = 1) -> None:
        super().__init__()
        if scale.ndim != 1 or scale.shape != shift.shape:
            raise ValueError(
                f"scale and shift must be vectors of one length, got {tuple(scale.shape)}, {tuple(shift.shape)}"
            )
        self.dim = dim
        self.scale = nn.Parameter(scale.detach().clone())
        self.shift = nn.Parameter(shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``, which has C channels in dimension ``dim``."""
        # Views that broadcast, and not movedim: the memory format of x stays.
        behind = [1] * (x.ndim - 1 - self.dim % x.ndim)
        return torch.addcmul(self.shift.view(-1, *behind), x, self.scale.view(-1, *behind))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the brackets."""
        return f"{len(self.scale)}, dim={self.dim}"
