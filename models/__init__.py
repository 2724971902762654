"""Layers and networks without normalization, and the normalized baselines they are compared with.

>>> from fedwon.models import build_model
>>> model = build_model("digit_cnn", normalization="none", width=0.25)
"""

# Imported for its effect too: a network is known to the registry once its module is loaded.
from fedwon.models.alexnet import AlexNet
from fedwon.models.blocks import (
    GAMMAS,
    RELU_GAMMA,
    Ablation,
    ConvBlock,
    LinearBlock,
    ScaledActivation,
    Style,
    make_style,
)
from fedwon.models.channel_affine import ChannelAffine
from fedwon.models.clipping import AdaptiveGradientClipping, final_layer, unitwise_norm
from fedwon.models.convert import (
    ConversionError,
    NeedsExamplesError,
    NotConvertibleError,
    OtherFunctionError,
    convert,
    detect,
    largest_difference,
)
from fedwon.models.digit_cnn import DigitCNN
from fedwon.models.efficientnet import EfficientNetB0
from fedwon.models.findings import Finding, explain
from fedwon.models.fold import fold
from fedwon.models.inspection import StatisticUse, functional_statistics, is_normalization_free, normalization_layers
from fedwon.models.layout import laid_out
from fedwon.models.mobilenet import MobileNetV2
from fedwon.models.normalizations import NORMALIZATIONS, Normalization, UnknownNormalizationError
from fedwon.models.offset_conv import OffsetWSConv2d
from fedwon.models.outside_networks import MissingLibraryError, is_outside
from fedwon.models.registry import ModelConfig, UnknownModelError, available_models, build_model, register
from fedwon.models.resnet import ResNet18
from fedwon.models.sharing import freeze_statistics, local_names, standardize_weights, trainable_names
from fedwon.models.ws_conv import WSConv2d
from fedwon.models.ws_linear import WSLinear

__all__ = [
    "GAMMAS",
    "NORMALIZATIONS",
    "RELU_GAMMA",
    "Ablation",
    "AdaptiveGradientClipping",
    "AlexNet",
    "ChannelAffine",
    "ConvBlock",
    "ConversionError",
    "DigitCNN",
    "EfficientNetB0",
    "Finding",
    "LinearBlock",
    "MissingLibraryError",
    "MobileNetV2",
    "ModelConfig",
    "NeedsExamplesError",
    "Normalization",
    "NotConvertibleError",
    "OffsetWSConv2d",
    "OtherFunctionError",
    "ResNet18",
    "ScaledActivation",
    "StatisticUse",
    "Style",
    "UnknownModelError",
    "UnknownNormalizationError",
    "WSConv2d",
    "WSLinear",
    "available_models",
    "build_model",
    "convert",
    "detect",
    "explain",
    "final_layer",
    "fold",
    "freeze_statistics",
    "functional_statistics",
    "is_normalization_free",
    "is_outside",
    "laid_out",
    "largest_difference",
    "local_names",
    "make_style",
    "normalization_layers",
    "register",
    "standardize_weights",
    "trainable_names",
    "unitwise_norm",
]
