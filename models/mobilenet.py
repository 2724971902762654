"""MobileNetV2, and its normalization-free form.

References:
    Sandler et al., CVPR 2018 (arXiv 1801.04381), table 2. With batch norm this is torchvision's ``mobilenet_v2``,
    function for function in evaluation (there is no dropout here), and has its 3,504,872 parameters at 1,000 classes.

Without normalization: :mod:`fedwon.models.inverted_residual`. Unlike torchvision the width scales the head as well.
"""

from torch import nn

from fedwon.models.inverted_residual import InvertedResidualNetwork, Stage
from fedwon.models.registry import ModelConfig, register

_STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


@register("mobilenet_v2")
class MobileNetV2(InvertedResidualNetwork):
    """Images ``(N, in_channels, S, S)`` to logits ``(N, num_classes)``; S = ``image_size`` >= 8.

    Args:
        config: Settings; the width scales all channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, _STAGES, nn.ReLU6, squeeze=False)
