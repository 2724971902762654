"""torchvision's classifiers by name, `torchvision:resnet18`: as they are, or with their batch norm taken out.

For models that were trained already: :mod:`fedwon.models.convert` says what becomes of each layer. Nothing is
downloaded.
"""

import difflib

from torch import nn

from fedwon.models.blocks import WHOLE
from fedwon.models.convert import convert
from fedwon.models.registry import ModelConfig, UnknownModelError, register_family

PREFIX = "torchvision:"
_IN_CHANNELS = 3
_AUXILIARY = frozenset({"googlenet", "inception_v3"})


def known_name(architecture: str) -> str:
    """Torchvision's name in an architecture's.

    Raises:
        UnknownModelError: torchvision has no such classifier; the message names some that are near.
    """
    name = architecture.removeprefix(PREFIX)
    from torchvision import models  # type: ignore[import-untyped]  # loads slowly, and most runs have no use for it

    known = models.list_models(module=models)
    if name == architecture or name not in known:
        close = difflib.get_close_matches(name, known, n=3) or ["resnet18", "mobilenet_v3_small", "efficientnet_b0"]
        wanted = ", ".join(f"`{PREFIX}{near}`" for near in close)
        raise UnknownModelError(f"there is no architecture `{architecture}`; for example {wanted}")
    return name


def original(architecture: str, num_classes: int | None = None) -> nn.Module:
    """The network as torchvision defines it, its weights drawn from torch's global generator.

    Args:
        architecture: ``torchvision:`` and a name.
        num_classes: Outputs; torchvision's own number (1000) if ``None``.

    Raises:
        UnknownModelError: there is no such network.
    """
    name = known_name(architecture)
    settings: dict[str, object] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _AUXILIARY:
        settings["init_weights"] = False  # else a warning, and a slow way to draw weights that are replaced
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, **settings)
    return network


@register_family(PREFIX)
def build(architecture: str, config: ModelConfig) -> nn.Module:
    """The network of a run: with batch norm, or without any normalization.

    Args:
        architecture: ``torchvision:`` and a name.
        config: Classes and normalization; such a network has its own width, three channels and no other switches.

    Raises:
        UnknownModelError: there is no such network.
        NotConvertibleError: it has normalization that has no exact counterpart.
        ValueError: a setting does not fit such networks.
    """
    refused = {
        f"width {config.width:g}": config.width != 1,
        f"in_channels {config.in_channels}": config.in_channels != _IN_CHANNELS,
        "relu_constant": config.relu_constant,
        f"skip_gain {config.skip_gain:g}": config.skip_gain != 0,
        f"dropout {config.dropout:g}": config.dropout != 0,
        f"linear {config.linear}": config.linear != "plain",
        "ablation": config.ablation != WHOLE,
        f"normalization {config.normalization!r}": config.normalization not in {"none", "batch"},
        "its auxiliary outputs": known_name(architecture) in _AUXILIARY,
    }
    for setting, is_set in refused.items():
        if is_set:
            raise ValueError(f"{architecture} cannot be had with {setting}")
    network = original(architecture, config.num_classes)
    return convert(network) if config.normalization == "none" else network
