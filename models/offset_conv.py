"""A weight-standardized convolution that can hold any filter: the form in which pretrained filters live on.

Standardization takes the mean out of every filter, and pretrained filters have one: blurs, colour sums, and each
filter of a 1x1 depthwise convolution, which is nothing but its mean. So the part along the constant direction is kept
as one more parameter per filter. With u the standardized filter (mean 0, norm 1) and e = (1, ..., 1)/sqrt(N), N the
fan-in, the filter convolved with is::

    gain * u + offset * e          u and e orthonormal

Hence ``gain`` and ``offset`` are lengths along two orthonormal directions: each has a gradient of the same scale, and
the filter's norm is ``hypot(gain, offset)``. At ``offset`` 0 this is FedWon's layer.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fedwon.models.ws_conv import WSConv2d


class OffsetWSConv2d(WSConv2d):
    """:class:`~fedwon.models.ws_conv.WSConv2d` with a learned offset per filter, initialized to 0.

    State dict keys: those of WSConv2d, and ``offset`` ``(C_out,)``. Folding knows it.

    Args:
        in_channels: As :class:`~fedwon.models.ws_conv.WSConv2d`, like all arguments.
        out_channels: Channels of the output, one filter, one gain and one offset each.
        kernel_size: Height and width of a filter, in pixels.
        stride: Step of the filter, in pixels.
        padding: Pixels on each side, or ``"same"`` or ``"valid"``.
        dilation: Distance of the filter's taps, in pixels.
        groups: Blocks of channels that do not see each other.
        bias: Learn a bias per output channel.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Where the parameters are made.
        dtype: Type of the parameters.
        eps: Floor of the squared norm of a centred filter; > 0.
        gain: Learn a factor per output channel.

    Raises:
        ValueError: as WSConv2d.
    """

    def __init__(  # noqa: PLR0917 - the positions are nn.Conv2d's
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        eps: float = 1e-4,
        gain: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            eps=eps,
            gain=gain,
        )
        self.offset = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """As WSConv2d, and set ``offset`` to 0."""
        super().reset_parameters()
        # The constructor of nn.Conv2d calls this method before the offset exists.
        offset = self._parameters.get("offset")
        if offset is not None:
            nn.init.zeros_(offset)

    def standardized_weight(self) -> Tensor:
        """The weight that is convolved with: WSConv2d's plus ``offset / sqrt(fan_in)`` on every entry of a filter.

        Returns:
            Tensor of the shape, type and device of ``weight``. A row sums to ``offset * sqrt(fan_in)``.
        """
        return super().standardized_weight() + (self.offset / math.sqrt(self.fan_in)).view(-1, 1, 1, 1)
