"""What of a network a site shares and in which form, and which tensors stay.

Layers are told by their type, never by their name.

FedBN's code tells its local layers by "bn" in the key, so torchvision's ``downsample.1``, a batch norm without "bn" in
its name, would be averaged (paper notes, section 6.3).

References:
    Li et al., "FedBN", ICLR 2021 (arXiv 2102.07623): normalization layers stay.
    Andreux et al., "Siloed federated learning for multi-centric histopathology datasets", DCL 2020 (arXiv 2008.07424),
    SiloBN: only the running statistics stay.
"""

from typing import Literal, get_args

import torch
from torch import nn

from fedwon.models.inspection import is_normalization
from fedwon.models.ws_conv import WSConv2d

Keeps = Literal["nothing", "statistics", "normalization", "everything"]
"""What a site keeps to itself: nothing, the running statistics of normalization layers, those layers whole, or the
whole network."""

_STATISTICS = frozenset(("running_mean", "running_var", "num_batches_tracked"))


def local_names(model: nn.Module, keeps: Keeps) -> frozenset[str]:
    """Names, as in ``model.state_dict()``, of the tensors that stay at a site.

    A layer that is registered in several places is found under each of its names.

    Args:
        model: Any network.
        keeps: What stays.

    Raises:
        ValueError: ``keeps`` is none of the four.
    """
    if keeps not in get_args(Keeps):
        raise ValueError(f"keeps must be one of {', '.join(get_args(Keeps))}, got {keeps!r}")
    if keeps == "nothing":
        return frozenset()
    if keeps == "everything":
        return frozenset(model.state_dict())
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in model.named_modules(remove_duplicate=False)
        if is_normalization(layer)
        for name in layer.state_dict()
        if keeps == "normalization" or name in _STATISTICS
    )


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names, as in ``model.state_dict()``, of the tensors that training moves: no statistics, counters or constants.

    Args:
        model: Any network.
    """
    named = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if parameter.requires_grad)


def freeze_statistics(model: nn.Module) -> None:
    """Let normalization layers use their running statistics while the rest trains, and leave these as they are.

    Scale and shift go on learning. Undone by ``model.train()``. Source: FixBN's second half, as reimplemented in
    Hongyao-Chen/HybridBN.

    Args:
        model: Any network; changed in place.
    """
    for layer in model.modules():
        if is_normalization(layer) and getattr(layer, "running_mean", None) is not None:
            layer.eval()


def standardize_weights(model: nn.Module) -> None:
    """Put in place of each WSConv2d's weight that weight standardized, without the gain; the function stays.

    Every filter then has mean 0 and norm 1, and learns as fast as at the start: the rate falls with the square of the
    norm, and the norm grows under SGD. FedWSQ (arXiv 2506.23516) reads FedWon as sending these; paper notes 7.7.

    Args:
        model: Any network; changed in place.
    """
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, WSConv2d):
                layer.weight.copy_(layer.standardized_filters())
