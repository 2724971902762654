"""EfficientNet-B0, and its normalization-free form.

References:
    Tan and Le, ICML 2019 (arXiv 1905.11946), table 1. With batch norm this is torchvision's ``efficientnet_b0``,
    function for function in evaluation (there is no dropout and no stochastic depth here), and has its 5,288,548
    parameters at 1,000 classes.

Without normalization: :mod:`fedwon.models.inverted_residual`.
"""

from typing import ClassVar

from torch import nn

from fedwon.models.inverted_residual import InvertedResidualNetwork, Stage
from fedwon.models.registry import ModelConfig, register

_STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 40, 2, 2, kernel_size=5),
    Stage(6, 80, 3, 2),
    Stage(6, 112, 3, 1, kernel_size=5),
    Stage(6, 192, 4, 2, kernel_size=5),
    Stage(6, 320, 1, 1),
)


@register("efficientnet_b0")
class EfficientNetB0(InvertedResidualNetwork):
    """Images ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S = ``image_size`` >= 8.

    Args:
        config: Settings; the width scales all channels.
    """

    channels_last_from: ClassVar[int] = 3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, _STAGES, nn.SiLU, squeeze=True)
