"""Adaptive gradient clipping (AGC): a gradient may be large only where the weight it moves is large.

References:
    Brock et al., "High-performance large-scale image recognition without normalization", ICML 2021
    (arXiv 2102.06171), section 4, equation 3: for each unit (row) i, with clipping factor lambda::

        if ||G_i|| > lambda * max(||W_i||, eps):   G_i <- G_i * lambda * max(||W_i||, eps) / ||G_i||

    google-deepmind/deepmind-research, ``nfnets/optim.py``: what a unit is, and the floor 1e-6 of the denominator.
    FedWon (ICLR 2024) uses it with lambda from 0.01 to 1.28 depending on the batch size.

Departures: a unit is told by the number of dimensions alone, where DeepMind squeezes first (a ``(64, 1, 1, 1)`` filter
bank is 64 units here, one there); PyTorch's Linear is ``(out, in)``, so the norm runs over dimension 1.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_DENOMINATOR_FLOOR = 1e-6


def unitwise_norm(tensor: Tensor) -> Tensor:
    """L2 norm of each unit, in the shape that broadcasts against the tensor.

    A unit is what feeds one output: the whole tensor for scalars and vectors (bias, gain), else everything behind
    dimension 0: dims 1, 2, 3 of a convolution's OIHW weight, dim 1 of a Linear's ``(out, in)``. Transposed
    convolutions keep their outputs in dimension 1 and are not what this is for.

    Args:
        tensor: A parameter or its gradient, of any shape.

    Returns:
        Shape ``()`` for scalars and vectors, else ``(out, 1, ..., 1)``.
    """
    norm: Tensor
    if tensor.ndim <= 1:
        norm = torch.linalg.vector_norm(tensor)
    else:
        norm = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)
    return norm


class AdaptiveGradientClipping:
    """Clips gradients unit by unit against the norms of the raw weights.

    Each parameter is visited once, however many modules or names share it. Biases start at 0, so their gradient is
    held to ``clipping * eps`` until they have grown: that is the published rule, not an accident.

    Args:
        parameters: A model, or ``(qualified name, parameter)`` pairs as ``named_parameters()`` gives them. For tied
            parameters give the model: pairs carry one name of each only.
        clipping: lambda, the largest allowed ratio of gradient norm to weight norm (dimensionless); > 0.
        eps: Floor of the weight norm, so that a zero weight can move at all; > 0.
        exclude: Qualified names of modules or parameters that are left alone; a module's name covers all below it, a
            tied parameter is left alone if one of its names is covered. ``None``: the final layer, see
            :func:`final_layer`, as in the NFNets. ``()``: nothing.

    Raises:
        ValueError: ``clipping`` or ``eps`` is not positive and finite, there are no parameters, a name in
            ``exclude`` fits none, or nothing is left to clip.
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[tuple[str, nn.Parameter]],
        clipping: float,
        eps: float = 1e-3,
        exclude: Iterable[str] | None = None,
    ) -> None:
        for name, value in (("clipping", clipping), ("eps", eps)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if isinstance(exclude, str):
            raise ValueError(f"exclude takes several names, got the single string {exclude!r}")  # noqa: TRY004
        named = _all_names(parameters)
        self.clipping = clipping
        self.eps = eps
        self.excluded = _excluded_names(named, exclude)
        self.parameters = _included(named, self.excluded)

    @torch.no_grad()
    def clip(self) -> float:
        """Scale down, in place, the gradient of every unit that is too large for its weight.

        Call after ``backward()`` and before the optimizer's step. Parameters without a gradient are passed over.
        Gradients that are not finite stay so: hiding them is not this function's to decide.

        Returns:
            Share of the visited units that were clipped, 0 to 1; 0 if none has a gradient.
        """
        clipped = [self._clip_parameter(weight, weight.grad) for weight in self.parameters if weight.grad is not None]
        units = sum(flags.numel() for flags in clipped)
        # One sum of tensors and one conversion: on a GPU each conversion would wait for the device.
        return float(sum(flags.sum() for flags in clipped)) / units if units else 0.0

    def _clip_parameter(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Clip one gradient in place; returns a boolean per unit."""
        limit = self.clipping * unitwise_norm(weight).clamp(min=self.eps)
        norm = unitwise_norm(gradient)
        too_large = norm > limit
        factor = limit / norm.clamp(min=_DENOMINATOR_FLOOR)
        # Where nothing is too large, the multiplication would be one more pass over the gradient for nothing.
        if gradient.device.type != "cpu" or bool(too_large.any()):
            gradient.mul_(torch.where(too_large, factor, torch.ones_like(factor)))
        return too_large


def final_layer(parameters: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """Qualified name of the module that holds the last weight matrix or filter bank, in order of registration.

    In every network of this package that is the classifier.

    Args:
        parameters: A model, or ``(qualified name, parameter)`` pairs.

    Returns:
        The name (``""`` if the model itself is that layer), or ``None`` if there are only vectors and scalars.
    """
    owners = [name.rpartition(".")[0] for name, parameter in _all_names(parameters) if parameter.ndim > 1]
    return owners[-1] if owners else None


def _all_names(parameters: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Every name of every parameter; a tied one appears under each of its names."""
    if isinstance(parameters, nn.Module):
        return list(parameters.named_parameters(remove_duplicate=False))
    return list(parameters)


def _covers(prefix: str, name: str) -> bool:
    """Whether the module or parameter ``prefix`` is, or contains, the parameter ``name``."""
    return name == prefix or not prefix or name.startswith(f"{prefix}.")


def _excluded_names(named: list[tuple[str, nn.Parameter]], exclude: Iterable[str] | None) -> tuple[str, ...]:
    """The prefixes to leave alone, each known to fit something."""
    if exclude is None:
        last = final_layer(named)
        return () if last is None else (last,)
    prefixes = tuple(exclude)
    for prefix in prefixes:
        if not any(_covers(prefix, name) for name, _ in named):
            known = ", ".join(sorted({name for name, _ in named}))
            raise ValueError(f"exclude names {prefix!r}, which is no module or parameter here; parameters: {known}")
    return prefixes


def _included(named: list[tuple[str, nn.Parameter]], excluded: tuple[str, ...]) -> tuple[nn.Parameter, ...]:
    """Each parameter once, without those that are excluded under any of their names."""
    if not named:
        raise ValueError("there are no parameters to clip")
    barred = {id(parameter) for name, parameter in named if any(_covers(prefix, name) for prefix in excluded)}
    # A dict, for it keeps the order.
    kept = {id(parameter): parameter for _, parameter in named if id(parameter) not in barred}
    if not kept:
        raise ValueError(f"nothing is left to clip: {excluded} covers every parameter; pass exclude=() to clip all")
    return tuple(kept.values())
