"""Blocks, registry and the digit network: sizes, errors, and that a batch of one image trains."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import fedwon.models
from fedwon.models import (
    GAMMAS,
    NORMALIZATIONS,
    RELU_GAMMA,
    AdaptiveGradientClipping,
    ConvBlock,
    ModelConfig,
    ScaledActivation,
    UnknownModelError,
    UnknownNormalizationError,
    WSConv2d,
    available_models,
    build_model,
    make_style,
    register,
)
from fedwon.models.normalizations import group_count, layer_norm

STATELESS = ["none", "group", "layer"]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_published_sizes():
    assert parameters(build_model("digit_cnn", normalization="batch")) == 14_219_210
    free = build_model("digit_cnn", normalization="none")
    assert parameters(free) == 14_213_834
    assert [m.fan_in for m in free.modules() if isinstance(m, WSConv2d)] == [75, 1600, 1600]
    assert {name.rpartition(".")[2] for name in free.state_dict()} == {"weight", "bias", "gain"}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("image_size", "in_channels"), [(8, 1), (13, 3), (28, 3), (33, 4)])
def test_shapes(normalization, image_size, in_channels):
    model = build_model(
        "digit_cnn",
        normalization=normalization,
        num_classes=7,
        width=0.1,
        in_channels=in_channels,
        image_size=image_size,
    )
    assert model(torch.randn(2, in_channels, image_size, image_size)).shape == (2, 7)


def test_the_linear_layers_are_plain_in_every_variant():
    for normalization in NORMALIZATIONS:
        model = build_model("digit_cnn", normalization=normalization, width=0.125)
        assert [type(m) for m in model.modules() if isinstance(m, nn.Linear)] == [nn.Linear] * 3
        standardized = sum(isinstance(m, WSConv2d) for m in model.modules())
        assert standardized == (3 if normalization == "none" else 0)


@pytest.mark.parametrize("normalization", STATELESS)
@pytest.mark.parametrize("relu_constant", [False, True])
def test_a_batch_of_one_trains(normalization, relu_constant):
    model = build_model("digit_cnn", normalization=normalization, width=0.25, relu_constant=relu_constant)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    F.cross_entropy(model(torch.randn(1, 3, 28, 28)), torch.tensor([3])).backward()
    for p in model.parameters():
        assert p.grad.isfinite().all()
        assert p.grad.any()
    AdaptiveGradientClipping(model, 1.28).clip()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_batch_norm_refuses_a_batch_of_one():
    model = build_model("digit_cnn", normalization="batch", width=0.25)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 3, 28, 28))


def test_unnormalized_learns_digits_one_image_at_a_time():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    x = F.interpolate(x, size=28, mode="bilinear").repeat(1, 3, 1, 1)
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    train, test = order[:700], order[-400:]
    model = build_model("digit_cnn", normalization="none", width=0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for i in torch.cat([train, train]):
        optimizer.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    # 0.1 is chance; seeds 0 to 7 gave 0.87 to 0.95 here, so that another build's rounding has room.
    assert accuracy > 0.65


@pytest.mark.parametrize("kind", GAMMAS)
def test_the_constants_keep_the_variance(kind):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    out = ScaledActivation(kind(), GAMMAS[kind])(z)
    mean = torch.trapezoid(out * density, z)
    assert torch.trapezoid((out - mean) ** 2 * density, z).item() == pytest.approx(1, abs=1e-5)


def test_the_relu_constant():
    assert pytest.approx(1.71286, abs=1e-5) == RELU_GAMMA
    torch.testing.assert_close(ScaledActivation(nn.ReLU(), 2.0)(torch.tensor([-1.0, 3.0])), torch.tensor([0.0, 6.0]))
    assert "1.71286" in repr(make_style(relu_constant=True).activation())


@pytest.mark.parametrize("relu_constant", [False, True])
def test_the_relu_constant_is_a_switch(relu_constant):
    model = build_model("digit_cnn", width=0.125, relu_constant=relu_constant)
    assert sum(isinstance(m, ScaledActivation) for m in model.modules()) == 5 * relu_constant
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 5


def test_the_relu_constant_keeps_the_signal_through_a_stack():
    def deviation(relu_constant):
        torch.manual_seed(1)
        style = make_style("none", relu_constant=relu_constant)
        # no padding: its zeros would take variance from the edges
        stack = nn.Sequential(*(ConvBlock(style, 64, 64, 3) for _ in range(4)), style.normalization.conv(64, 64, 3))
        return stack(torch.randn(4, 64, 20, 20)).std().item()

    # one factor of 1 / RELU_GAMMA = 0.58 per ReLU without it
    assert deviation(relu_constant=True) == pytest.approx(1, abs=0.2)
    assert deviation(relu_constant=False) == pytest.approx(RELU_GAMMA**-4, rel=0.2)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (128, 32), (2048, 32), (48, 16), (16, 8), (3, 1), (1, 1)])
def test_group_count(channels, groups):
    assert group_count(channels) == groups


def test_group_count_refuses_nothing():
    with pytest.raises(ValueError, match="positive"):
        group_count(0)


def test_layer_norm_is_over_a_whole_example():
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(layer_norm(4)(x), F.layer_norm(x, (4, 5, 5)))
    torch.testing.assert_close(layer_norm(4)(x[:, :, 0, 0]), nn.LayerNorm(4)(x[:, :, 0, 0]))


def test_a_block_can_end_without_activation():
    block = ConvBlock(make_style(), 3, 4, 3, activation=None)
    assert (block(torch.randn(1, 3, 6, 6)) < 0).any()


def test_initial_weights_come_from_torchs_generator_alone():
    def weights(seed):
        torch.manual_seed(seed)
        return build_model("digit_cnn", width=0.125).state_dict()

    one, same, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["conv1.conv.weight"], other["conv1.conv.weight"])


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(UnknownModelError, match=r"'resnet9000'.*digit_cnn"):
        build_model("resnet9000")
    with pytest.raises(UnknownNormalizationError, match=r"'bn'.*none, batch, group, layer"):
        build_model("digit_cnn", normalization="bn")
    assert issubclass(UnknownModelError, ValueError)
    assert issubclass(UnknownNormalizationError, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_classes", 0), ("in_channels", 0), ("image_size", 7), ("width", 0.0), ("width", math.nan), ("width", -1.0)],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        build_model("digit_cnn", **{name: value})


def test_a_name_is_registered_once():
    assert "digit_cnn" in available_models()
    with pytest.raises(ValueError, match="already registered"):
        register("digit_cnn")(nn.Identity)


@pytest.mark.parametrize(("width", "expected"), [(1.0, 100), (0.5, 48), (0.01, 8), (2.0, 200), (0.25, 24)])
def test_scaled_channels_are_multiples_of_eight(width, expected):
    assert ModelConfig(width=width).scaled(100) == expected


def test_what_the_package_offers():
    # The list is the interface of the package: who changes it changes this line on purpose.
    assert set(fedwon.models.__all__) == {
        *("WSConv2d", "AdaptiveGradientClipping", "unitwise_norm", "final_layer"),
        *("Ablation", "WSLinear", "GAMMAS", "NORMALIZATIONS", "RELU_GAMMA", "Normalization", "Style", "make_style"),
        *("ConvBlock", "LinearBlock", "ScaledActivation", "UnknownNormalizationError"),
        *("ModelConfig", "UnknownModelError", "available_models", "build_model", "register"),
        *("MissingLibraryError", "is_outside"),
        *("AlexNet", "DigitCNN", "EfficientNetB0", "MobileNetV2", "ResNet18", "fold"),
        *("freeze_statistics", "local_names", "standardize_weights", "trainable_names"),
        *("ChannelAffine", "Finding", "OffsetWSConv2d", "convert", "detect", "explain", "largest_difference"),
        *("ConversionError", "NeedsExamplesError", "NotConvertibleError", "OtherFunctionError"),
        *("StatisticUse", "functional_statistics", "is_normalization_free", "normalization_layers", "laid_out"),
    }
    for name in fedwon.models.__all__:
        thing = getattr(fedwon.models, name)
        assert name.isupper() or thing.__doc__
