"""Classifiers of other libraries by name, `torchvision:resnet18` or `timm:regnety_004`, with batch norm or without.

For models that were trained already: :mod:`fedwon.models.convert` says what becomes of each layer. Nothing is
downloaded: a library gives the architecture, and weights come from a file. timm need not be installed; a run that names
one of its networks needs it on the server and at every site (docs/decisions/0046-timm.md).
"""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from fedwon.models.blocks import WHOLE
from fedwon.models.convert import convert
from fedwon.models.registry import ModelConfig, UnknownModelError, register_family

_IN_CHANNELS = 3
_USUAL_SIZE = 224


class MissingLibraryError(UnknownModelError):
    """A network of a library that is not installed here.

    Attributes:
        library: Its name, which is also that of fedwon's extra.
    """

    def __init__(self, architecture: str, library: str) -> None:
        super().__init__(f"`{architecture}` is one of {library}'s networks, and {library} is not installed here")
        self.library = library


@dataclass(frozen=True)
class Library:
    """Where networks come from that are not fedwon's own.

    Attributes:
        names: The networks that it has.
        make: A network, by its name and settings of the library's own (`num_classes`), with random weights.
        examples: Networks to name where nobody can guess which was meant.
        auxiliary: Those that give other outputs beside the classes in training, which a run has no use for.
        sizes: Sides in pixels of the smallest images that a network takes, where 224 are too small.
    """

    names: Callable[[], Collection[str]]
    make: Callable[..., nn.Module]
    examples: tuple[str, ...]
    auxiliary: frozenset[str] = frozenset()
    sizes: Mapping[str, int] = field(default_factory=dict)


def _torchvisions_names() -> Collection[str]:
    from torchvision import models  # type: ignore[import-untyped]  # loads slowly, and most runs have no use for it

    names: list[str] = models.list_models(module=models)
    return names


def _torchvisions(name: str, **settings: object) -> nn.Module:
    from torchvision import models

    if name in _AUXILIARY:
        settings["init_weights"] = False  # else a warning, and a slow way to draw weights that are replaced
    network: nn.Module = models.get_model(name, weights=None, **settings)
    return network


def _timms_names() -> Collection[str]:
    import timm

    names: list[str] = timm.list_models()
    return names


def _timms(name: str, **settings: object) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, **settings)
    return network


_AUXILIARY = frozenset({"googlenet", "inception_v3"})
LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "torchvision:": Library(
            _torchvisions_names,
            _torchvisions,
            ("resnet18", "mobilenet_v3_small", "efficientnet_b0"),
            auxiliary=_AUXILIARY,
            sizes={"inception_v3": 299},  # its auxiliary classifier takes no smaller
        ),
        "timm:": Library(_timms_names, _timms, ("resnet18", "mobilenetv3_small_100", "regnety_004")),
    }
)
"""The libraries by the prefix of their networks' names."""


def is_outside(architecture: str) -> bool:
    """Whether a network's name is that of another library's, by its prefix."""
    return architecture.startswith(tuple(LIBRARIES))


def check_known(architecture: str) -> None:
    """Look whether there is such a network.

    Args:
        architecture: A prefix of :data:`LIBRARIES` and the library's own name.

    Raises:
        MissingLibraryError: its library is not installed.
        UnknownModelError: the library has no such classifier; the message names some that are near.
    """
    prefix, name = _parted(architecture)
    _look_up(prefix, name)


def image_size(architecture: str) -> int:
    """Side of square images that a network takes, in pixels; that of ImageNet as a rule."""
    prefix, name = _parted(architecture)
    return LIBRARIES[prefix].sizes.get(name, _USUAL_SIZE)


def original(architecture: str, num_classes: int | None = None) -> nn.Module:
    """The network as its library defines it, its weights drawn from torch's global generator.

    Args:
        architecture: A prefix of :data:`LIBRARIES` and the library's own name.
        num_classes: Outputs; the library's own number (1000 as a rule) if ``None``.

    Raises:
        MissingLibraryError: its library is not installed.
        UnknownModelError: there is no such network.
    """
    prefix, name = _parted(architecture)
    _look_up(prefix, name)
    settings = {} if num_classes is None else {"num_classes": num_classes}
    return LIBRARIES[prefix].make(name, **settings)


def build(architecture: str, config: ModelConfig) -> nn.Module:
    """The network of a run: with batch norm, or without any normalization.

    Args:
        architecture: A prefix of :data:`LIBRARIES` and the library's own name.
        config: Classes and normalization; such a network has its own width, three channels and no other switches.

    Raises:
        MissingLibraryError: its library is not installed.
        UnknownModelError: there is no such network.
        NotConvertibleError: it has normalization that has no exact counterpart.
        ValueError: a setting does not fit such networks.
    """
    prefix, name = _parted(architecture)
    refused = {
        f"width {config.width:g}": config.width != 1,
        f"in_channels {config.in_channels}": config.in_channels != _IN_CHANNELS,
        "relu_constant": config.relu_constant,
        f"skip_gain {config.skip_gain:g}": config.skip_gain != 0,
        f"dropout {config.dropout:g}": config.dropout != 0,
        f"linear {config.linear}": config.linear != "plain",
        "ablation": config.ablation != WHOLE,
        f"normalization {config.normalization!r}": config.normalization not in {"none", "batch"},
        "its auxiliary outputs": name in LIBRARIES[prefix].auxiliary,
    }
    for setting, is_set in refused.items():
        if is_set:
            raise ValueError(f"{architecture} cannot be had with {setting}")
    network = original(architecture, config.num_classes)
    return convert(network) if config.normalization == "none" else network


for _prefix in LIBRARIES:
    register_family(_prefix)(build)


def _parted(architecture: str) -> tuple[str, str]:
    """The library's prefix and its own name of the network."""
    prefix = next((prefix for prefix in LIBRARIES if architecture.startswith(prefix)), None)
    if prefix is None:
        first = next(iter(LIBRARIES))
        raise _unknown(architecture, first, LIBRARIES[first].names())
    return prefix, architecture.removeprefix(prefix)


def _look_up(prefix: str, name: str) -> None:
    try:
        known = LIBRARIES[prefix].names()
    except ModuleNotFoundError as error:
        raise MissingLibraryError(prefix + name, prefix.removesuffix(":")) from error
    if name not in known:
        raise _unknown(prefix + name, prefix, known)


def _unknown(architecture: str, prefix: str, known: Collection[str]) -> UnknownModelError:
    """What to say of a name that no library has: what is near in one of them."""
    name = architecture.removeprefix(prefix)
    close = difflib.get_close_matches(name, known, n=3) or LIBRARIES[prefix].examples
    wanted = ", ".join(f"`{prefix}{near}`" for near in close)
    return UnknownModelError(f"there is no architecture `{architecture}`; for example {wanted}")
