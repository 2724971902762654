"""Convolution with scaled weight standardization: the one layer that replaces normalization in FedWon.

References:
    Zhuang and Lyu, "FedWon: Triumphing Multi-domain Federated Learning Without Normalization", ICLR 2024
    (arXiv 2306.05879), the weight reparameterization equation; per filter o with fan-in N::

        W_hat[o, j] = gain[o] * (W[o, j] - mean_j W[o]) / (std_j W[o] * sqrt(N))

    Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets", ICLR 2021
    (arXiv 2101.08692): the same scaling, named scaled weight standardization.
    google-deepmind/deepmind-research, ``nfnets/base.py``: the reference for the floor, the biased variance and the
    initialization.

Departures from the listing in the FedWon paper's appendix, as it has come down to us: the variance is the biased one,
as in the equation (the unbiased one differs by sqrt((N-1)/N), 6 % for a depthwise 3x3 filter); ``eps`` and the fan-in
are plain attributes and not buffers, so that federated averaging has no constants to average; the gain is a vector
``(C_out,)`` and not ``(C_out, 1, 1, 1)``, so that adaptive gradient clipping takes it as one vector, like a bias.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

_NEGLIGIBLE = 1e-30  # what the fused kernel adds to the variance: lost in rounding, and no division by 0


class WSConv2d(nn.Conv2d):
    """2-D convolution whose weight is standardized per output channel in every forward pass.

    What is stored, trained, sent and averaged is the raw ``weight``; what is convolved with is
    :meth:`standardized_weight`. No activation is ever normalized: nothing depends on the batch, training and
    inference are the same function, and a batch of one image is legal. State dict keys: ``weight``
    ``(C_out, C_in/groups, kh, kw)``, ``bias`` ``(C_out,)``, ``gain`` ``(C_out,)``; the last two only if asked for.

    The output does not change when a filter is multiplied by a positive number or shifted by a constant (while its
    centred norm stays above ``sqrt(eps)``). Hence the gradient with respect to a filter is orthogonal to it and
    shrinks as 1/norm: the scale of the initial weights sets no signal scale but acts as a learning rate knob, the
    effective rate being lr/norm^2, and weight decay on ``weight`` is a learning rate schedule.

    Args:
        in_channels: Channels of the input, > 0.
        out_channels: Channels of the output, one filter and one gain each.
        kernel_size: As :class:`torch.nn.Conv2d`, like all arguments up to ``dtype``.
        stride: Step of the filter, in pixels.
        padding: Pixels on each side, or ``"same"`` or ``"valid"``.
        dilation: Distance of the filter's taps, in pixels.
        groups: Blocks of channels that do not see each other; the fan-in is per group.
        bias: Learn a bias per output channel, initialized to 0. It takes the part of batch norm's shift.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Where the parameters are made.
        dtype: Type of the parameters.
        eps: Floor of variance * fan-in, i.e. of the squared norm of a centred filter (dimensionless); > 0. A floor,
            not an added term: filters above it are standardized exactly.
        gain: Learn a factor per output channel, initialized to 1. ``False``: no such parameter, the factor is 1.

    Raises:
        ValueError: ``eps`` is not a positive finite number, a filter would have no weights, or
            :class:`torch.nn.Conv2d` refuses its arguments.
    """

    gain: nn.Parameter | None

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
        if not (math.isfinite(eps) and eps > 0):
            raise ValueError(f"eps is the floor of variance * fan-in and must be positive and finite, got {eps}")
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
        )
        self.eps = eps
        ones = nn.Parameter(torch.ones(out_channels, device=device, dtype=dtype)) if gain else None
        self.register_parameter("gain", ones)

    @property
    def fan_in(self) -> int:
        """Weights per filter, ``C_in / groups * kh * kw``; the N of the equation."""
        return math.prod(self.weight.shape[1:])

    def reset_parameters(self) -> None:
        """Draw ``weight`` from Normal(0, 1/fan_in), set ``bias`` to 0 and ``gain`` to 1.

        This is DeepMind's variance scaling (1.0, fan-in, normal). Every filter then starts with norm 1, the norm of
        its standardized self, so that one learning rate means the same effective rate, and one clipping factor the
        same threshold, in every layer. Xavier's choice depends on the fan-out instead: the first layer of the digit
        network (fan-in 75, fan-out 1600) would start at norm 0.3, i.e. learn eleven times as fast as the second.

        Raises:
            ValueError: a filter has no weights (``in_channels`` or ``kernel_size`` 0).
        """
        fan_in = self.fan_in
        if fan_in <= 0:
            raise ValueError(f"a filter needs at least one weight, got weight shape {tuple(self.weight.shape)}")
        nn.init.normal_(self.weight, std=fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        # nn.Conv2d's constructor calls this method before the gain exists.
        gain = self._parameters.get("gain")
        if gain is not None:
            nn.init.ones_(gain)

    def standardized_weight(self) -> Tensor:
        """The weight that is convolved with: ``gain * (W - mean) / sqrt(max(var * fan_in, eps))``.

        Mean and biased variance are over each filter. A row of the result sums to 0 and has L2 norm ``|gain|``; a
        constant row, and so every row of fan-in 1, gives zeros. Differentiable in ``weight`` and ``gain``.

        Returns:
            Tensor of the shape, type and device of ``weight``.
        """
        return standardize(self.weight, self.gain, self.eps)

    def standardized_filters(self) -> Tensor:
        """The standardized weight without the gain: each filter of mean 0 and, above the floor, of L2 norm 1.

        Returns:
            Tensor of the shape, type and device of ``weight``.
        """
        return standardize(self.weight, None, self.eps)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Conv2d gives it
        """Convolve with the standardized weight.

        Args:
            input: ``(N, C_in, H, W)`` or ``(C_in, H, W)``.

        Returns:
            ``(N, C_out, H_out, W_out)`` or ``(C_out, H_out, W_out)``, sizes as :class:`torch.nn.Conv2d`.

        Raises:
            RuntimeError: the input's shape or type does not fit.
        """
        # nn.Conv2d's own: it is where padding modes, string padding, stride, dilation and groups are seen to.
        out: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return out

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the brackets."""
        inherited: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{inherited}, eps={self.eps:g}, gain={self.gain is not None}"


def standardize(weight: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """Standardize in one fused pass, forward and backward: group norm's kernel, each filter a group of its own.

    Of the native kernels it is the fastest on rows of some thousand weights: forward and backward together take two
    thirds of batch norm's time and half of layer norm's. It adds its own eps to the variance and has no floor, so it
    gets a negligible one, and filters below the floor, which hardly exist, send the whole layer the slow way.

    Args:
        weight: ``(C_out, ...)``; a filter is what lies behind dimension 0.
        gain: ``(C_out,)``, or ``None`` for 1.
        eps: Floor of the squared norm of a centred filter; > 0.

    Returns:
        Tensor of the shape of ``weight``.
    """
    if weight.device.type != "cpu":  # the comparison below would make an accelerator wait for it at every layer
        return _standardize_with_floor(weight, gain, eps)
    filters, fan_in = weight.shape[0], math.prod(weight.shape[1:])
    unit = fan_in**-0.5
    scale = weight.new_full((filters,), unit) if gain is None else gain * unit
    # The sizes that it is told are what counts, not the weight's own: as one example of so many channels it would need
    # a view before and one after, which in networks of many small layers is time.
    standardized, _, inverse_std = torch.native_group_norm(
        _in_rows(weight), scale, None, 1, filters, fan_in, filters, _NEGLIGIBLE
    )
    if inverse_std.detach().max().item() > math.sqrt(fan_in / eps):
        return _standardize_with_floor(weight, gain, eps)
    return standardized


def _in_rows(weight: Tensor) -> Tensor:
    """The weight with each filter in a row, by its strides too: the kernel goes by them.

    Of channels_last weights some have the same elements in the same order (1x1 and depthwise filters), so torch calls
    them contiguous, and the kernel would still take them for the other layout and compute something else.
    """
    rest = math.prod(weight.shape[2:])
    if weight.is_contiguous() and weight.stride(-1) == 1 and weight.stride(1) == rest:
        return weight
    return weight.clone(memory_format=torch.contiguous_format)


def _standardize_with_floor(weight: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """The equation as it stands: four times the memory traffic, and right for constant filters."""
    flat = weight.flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
    scale = torch.rsqrt(torch.clamp(variance * flat.shape[1], min=eps))
    if gain is not None:
        scale = scale * gain.view(-1, 1)
    return ((flat - mean) * scale).view_as(weight)
