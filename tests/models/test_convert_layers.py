"""Pairs, shared layers, calls and odd forwards: each kind of finding, and that it is exact or refused in words."""

import copy
import math
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedwon.models import fold, normalization_layers
from fedwon.models.absorb import Affine, absorbing_conv, affine_of
from fedwon.models.channel_affine import ChannelAffine
from fedwon.models.convert import ConversionError, NotConvertibleError, convert, detect, largest_difference
from fedwon.models.findings import explain
from fedwon.models.offset_conv import OffsetWSConv2d


def randomize(model, seed=0):
    """Statistics and weights of any sign, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.05, 4, generator=generator)
        if getattr(layer, "running_mean", None) is not None and layer.affine:
            layer.weight.data.normal_(generator=generator)
            layer.bias.data.normal_(generator=generator)
            layer.weight.data[0] = 0
    return model.eval()


def same(model, converted, x, tolerance=1e-5):
    assert largest_difference(model, converted, x) < tolerance
    assert normalization_layers(converted) == []
    precise = copy.deepcopy(model).double()
    assert largest_difference(precise, convert(precise, example=x.double()), x.double()) < 1e-12


def form(model):
    (finding,) = detect(model)
    return finding.form


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 3, (1, 3)])),
        stride=draw(st.sampled_from([1, 2, (2, 1)])),
        padding=draw(st.sampled_from([0, 1, (1, 2)])),
        dilation=draw(st.sampled_from([1, 2])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )


@settings(max_examples=60)
@given(conv=convolutions(), affine=st.booleans(), seed=st.integers(0, 2**16))
def test_every_convolution_takes_its_batch_norm_in(conv, affine, seed):
    torch.manual_seed(seed)
    conv.reset_parameters()
    model = randomize(nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, affine=affine)), seed)
    assert form(model) == "conv"
    converted = convert(model)
    x = torch.randn(2, conv.in_channels, 8, 9)
    wanted = model(x).detach()
    torch.testing.assert_close(converted(x), wanted, rtol=1e-4, atol=1e-5 * float(1 + wanted.abs().max()))
    assert torch.equal(fold(converted)(x), converted(x))
    precise = copy.deepcopy(model).double()
    torch.testing.assert_close(convert(precise)(x.double()), precise(x.double()), rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["constant", "zero", "huge mean", "tiny", "huge"]),
    fan_in=st.sampled_from([1, 4, 9]),
    seed=st.integers(0, 2**16),
)
def test_filters_that_standardization_alone_would_lose(kind, fan_in, seed):
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(3, fan_in, 1, 1, generator=generator, dtype=torch.float64)
    filters = {
        "constant": filters[:, :1].expand_as(filters),
        "zero": torch.zeros_like(filters),
        "huge mean": filters + 1e4,
        "tiny": filters * 1e-12,
        "huge": filters * 1e12,
    }[kind]
    conv = nn.Conv2d(fan_in, 3, 1, dtype=torch.float64)
    conv.weight = nn.Parameter(filters.clone())
    scale = torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64)
    absorbed = absorbing_conv(conv, Affine(scale, torch.zeros(3, dtype=torch.float64)))
    wanted = scale.view(-1, 1, 1, 1) * filters
    largest = float(filters.abs().max())
    torch.testing.assert_close(absorbed.standardized_weight(), wanted, rtol=1e-9, atol=1e-9 * largest)
    # Learning begins at the norm of a fresh layer, and a filter keeps its direction whatever gamma's sign.
    if fan_in > 1:
        torch.testing.assert_close(absorbed.weight.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    if kind == "tiny" and fan_in > 1:
        centred = filters - filters.mean(1, keepdim=True)
        assert (absorbed.weight * centred).sum() > 0


def test_a_dead_filter_can_learn():
    conv = nn.Conv2d(2, 3, 3)
    nn.init.zeros_(conv.weight)
    one = torch.ones(3, dtype=torch.float64)
    absorbed = absorbing_conv(conv, Affine(one, one))
    absorbed(torch.randn(1, 2, 5, 5)).square().sum().backward()
    assert absorbed.gain.grad.all()
    assert absorbed.offset.grad.all()


def test_constants_against_the_definition():
    mean, variance, weight, bias = torch.rand(4, 5)
    scale, shift = affine_of(mean, variance, weight, bias, 0.1)
    for c in range(5):
        slow = (2.5 - float(mean[c])) / math.sqrt(float(variance[c]) + 0.1) * float(weight[c]) + float(bias[c])
        assert 2.5 * float(scale[c]) + float(shift[c]) == pytest.approx(slow)


@pytest.mark.parametrize("dim", [1, -3])
def test_channel_affine(dim):
    scale, shift = torch.randn(2, 4)
    layer = ChannelAffine(scale, shift, dim)
    x = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), x * scale.view(1, 4, 1, 1) + shift.view(1, 4, 1, 1))
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="one length"):
        ChannelAffine(scale, shift[:2])


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        ((nn.Linear(3, 4), nn.BatchNorm1d(4)), (5, 3), "linear"),
        ((nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)), (5, 3), "linear"),
        ((nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)), (2, 3, 5, 5), "affine"),
        ((nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)), (2, 3, 7), "affine"),
        ((nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (2, 3, 5, 5, 5), "affine"),
        ((nn.ReLU(), nn.BatchNorm2d(3)), (2, 3, 5, 5), "affine"),
        ((nn.Conv2d(3, 4, 2), nn.SyncBatchNorm(4)), (2, 3, 5, 5), "conv"),
        ((nn.Conv2d(3, 4, 2), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), (2, 3, 5, 5), "conv"),
        ((nn.ReLU(), nn.InstanceNorm2d(3, affine=True, track_running_stats=True)), (3, 5, 5), "affine"),
        ((nn.utils.spectral_norm(nn.Conv2d(3, 4, 2)), nn.BatchNorm2d(4)), (2, 3, 5, 5), "affine"),
        ((nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 2)), nn.BatchNorm2d(4)), (2, 3, 5, 5), "affine"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_stands_before_decides(layers, shape, expected):
    model = randomize(nn.Sequential(*copy.deepcopy(layers)))
    assert form(model) == expected
    converted = convert(model)
    x = torch.randn(shape)
    torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)
    assert normalization_layers(converted) == []


def test_across_sequential_boundaries():
    model = randomize(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())))
    assert form(model) == "conv"
    same(model, convert(model), torch.randn(2, 3, 6, 6))


class OwnOrder(nn.Module):
    """Registered in another order than called: neighbours in the list are no pairs."""

    def __init__(self):
        super().__init__()
        self.first, self.norm_second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.norm_first = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm_second(self.second(self.norm_first(self.first(x))))


def test_execution_decides_and_not_registration():
    model = randomize(OwnOrder())
    assert {finding.where: finding.after for finding in detect(model)} == {
        "norm_first": "Conv2d first",
        "norm_second": "Conv2d second",
    }
    same(model, convert(model), torch.randn(2, 3, 6, 6))


class Reused(nn.Module):
    """One of: a norm called twice, a convolution called twice, one whose output goes two ways, a tied filter."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        if what == "tied":
            self.b.weight = self.a.weight

    def forward(self, x):
        if self.what == "norm":
            return self.norm(self.b(self.norm(self.a(x))))
        if self.what == "conv":
            return self.a(self.norm(self.a(x)))
        if self.what == "two ways":
            y = self.a(x)
            return self.norm(y) + y
        if self.what == "read":
            return self.norm(self.a(x)) + self.a.weight.sum()
        return self.norm(self.a(x)) + self.b(x)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("norm", "called 2 times"),
        ("conv", "also used elsewhere"),
        ("two ways", "also used elsewhere"),
        ("tied", "weights of Conv2d a are also used elsewhere"),
        ("read", "weights of Conv2d a are also used elsewhere"),
    ],
)
def test_where_a_layer_has_several_uses_it_stays(what, reason):
    model = randomize(Reused(what))
    first, unused = detect(model)
    assert (first.where, first.form) == ("norm", "affine")
    assert reason in first.why
    assert unused.form == "affine"
    assert "no call of it was seen" in unused.why
    same(model, convert(model), torch.randn(2, 3, 6, 6))


class Fused(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the activation is inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Other(nn.BatchNorm2d):
    """Looks like a batch norm and is none."""

    def forward(self, x):
        return super().forward(x).abs()


@pytest.mark.parametrize("first", [nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())])
def test_a_fused_activation_stays(first):
    model = randomize(nn.Sequential(copy.deepcopy(first), Fused(4)))
    converted = convert(model)
    assert any(isinstance(layer, nn.SiLU) for layer in converted.modules())
    same(model, converted, torch.randn(2, 3, 6, 6))


def test_a_subclass_that_computes_something_else_is_refused():
    with pytest.raises(
        NotConvertibleError, match=r"0 \(Other after the input\).*Other\.forward computes something else"
    ):
        convert(nn.Sequential(Other(3)))


class Functional(nn.Module):
    """Batch norm as a call, once behind a convolution and once not."""

    def __init__(self, *, dropout=False, training=None):
        super().__init__()
        self.dropout, self.fixed = dropout, training
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("variance", torch.rand(4) + 0.2)
        self.scale = nn.Parameter(torch.tensor([0.0, -1.5, 1.0, 2.0]))

    def forward(self, x):
        mode = self.training if self.fixed is None else self.fixed
        x = F.relu(F.batch_norm(self.conv(x), self.mean, self.variance, self.scale, training=mode))
        if self.dropout:
            x = F.dropout(x, training=self.training)
        return F.batch_norm(input=x, running_mean=self.mean, running_var=self.variance, eps=0.1)


def test_batch_norm_as_a_call():
    model = nn.Sequential(OrderedDict(stem=Functional(), rest=nn.Sequential(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))))
    found = detect(randomize(model))
    assert [(f.where, f.layer, f.form) for f in found] == [
        ("rest.1", "BatchNorm2d", "conv"),
        ("stem", "F.batch_norm", "conv"),
        ("stem", "F.batch_norm", "affine"),
    ]
    converted = convert(model, example=torch.randn(2, 3, 9, 9))
    same(model, converted, torch.randn(2, 3, 9, 9))
    assert isinstance(converted.stem.conv, OffsetWSConv2d)
    assert not {name for name in converted.state_dict() if "mean" in name or "variance" in name}
    copy.deepcopy(converted).train()(torch.randn(1, 3, 9, 9)).sum().backward()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Functional(dropout=True), "does something else in training"),
        (Functional(training=True), "measures each batch anew"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.LayerNorm((3, 6, 6))), "weights per position"),
    ],
)
def test_what_is_refused(model, reason):
    with pytest.raises(NotConvertibleError, match=reason) as caught:
        convert(model)
    assert isinstance(caught.value, ConversionError)
    assert all(finding.way_out for finding in caught.value.findings)


def test_lazy_layers_have_to_run_first():
    for ask in (detect, convert):
        with pytest.raises(NotConvertibleError, match="Run the network once"):
            ask(nn.Sequential(nn.LazyBatchNorm2d()))


def test_other_calls_are_refused_by_name():
    class Net(nn.Module):
        def forward(self, x):
            return F.group_norm(F.layer_norm(x, x.shape[1:]), 1)

    assert [(f.layer, f.form) for f in detect(Net())] == [
        ("F.layer_norm", "impossible"),
        ("F.group_norm", "impossible"),
    ]


def test_damaged_statistics_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(3))
    model[0].running_var[1] = torch.nan
    with pytest.raises(NotConvertibleError, match="not finite"):
        convert(model)


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.LocalResponseNorm(2),
        nn.RMSNorm(6),
    ],
)
def test_layers_without_constants_can_be_measured(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), copy.deepcopy(norm), nn.ReLU())
    x = torch.randn(4, 3, 8, 8)
    converted = convert(model, calibration=x)
    assert isinstance(converted[1], ChannelAffine)
    assert normalization_layers(converted) == []
    if isinstance(norm, nn.BatchNorm2d):  # of this very batch, constants are exact
        assert largest_difference(model, converted, x) < 1e-5


def test_rounding_that_a_network_amplifies_is_no_other_function():
    class Cancels(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(self.conv(x))
            return torch.sin(1e5 * y)

    model = randomize(Cancels())
    x = torch.randn(2, 3, 9, 9)
    assert largest_difference(model, convert(model, example=x), x) > 1e-4
    half = copy.deepcopy(model).bfloat16()
    assert all(value.dtype == torch.bfloat16 for value in convert(half, example=x.bfloat16()).parameters())


def test_what_is_kept_is_named():
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)))
    converted = convert(model, keep=["2"])
    assert [name for name, _ in normalization_layers(converted)] == ["2"]
    assert largest_difference(model, converted, torch.randn(2, 3, 6, 6)) < 1e-5
    with pytest.raises(ValueError, match=r"keep names 'gn'.*'1', '2', '3'"):
        convert(model, keep=["gn"])


class Untraceable(nn.Module):
    """Decides by values. Its Sequential may be taken apart by it; its block is called whole."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.block = OwnOrder()

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        seen = [x := layer(x) for layer in self.layers]
        return self.block(self.norm(self.conv(x)) + seen[0])


def test_an_untraceable_forward_is_explained_and_proved():
    model = randomize(Untraceable())
    x = torch.randn(2, 3, 6, 6)
    found = {finding.where: finding for finding in detect(model)}
    assert {where: finding.form for where, finding in found.items()} == {
        "norm": "affine",
        "layers.1": "affine",
        "block.norm_first": "conv",
        "block.norm_second": "conv",
        "": "opaque",
    }
    assert "control flow" in found[""].why
    with pytest.raises(NotConvertibleError, match="Give `example=` images"):
        convert(model)
    same(model, convert(model, example=x), x)


def test_a_hidden_call_in_an_untraceable_forward_is_found_by_running():
    class Hidden(nn.Module):
        def forward(self, x):
            return F.layer_norm(x, x.shape[1:]) if x.sum() < 1e9 else x

    with pytest.raises(ConversionError, match=r"native_layer_norm in the network"):
        convert(Hidden(), example=torch.randn(2, 3, 4, 4))


def test_modes_stay_layer_by_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[0].eval()
    assert [layer.training for layer in convert(model)] == [False, True, True]


def test_explanation_in_plain_words():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    assert explain(detect(model)).splitlines() == [
        "1 absorbed into the convolution before, exactly.",
        "1 can only be approximated, with constants measured on example images.",
        "1 (BatchNorm2d after Conv2d 0): exact, taken into gain, offset and bias of the convolution before.",
        (
            "2 (GroupNorm after BatchNorm2d 1): not exact, it measures each example anew, so no constants compute the "
            "same. Give `calibration=` example images to put measured constants in its place, and train on; or name it "
            "in `keep`."
        ),
    ]
