"""WSConv2d against a slow twin of plain loops, and the properties the paper claims for it."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedwon.models import WSConv2d
from fedwon.models.ws_conv import standardize

EPS = 1e-4
EXACT = {"rtol": 1e-10, "atol": 1e-10}


# The twin: float64, one number at a time, backward written out by hand. It shares no code with the layer.


def twin_standardize(weight, gain, eps):
    """Each filter: centre, divide by the root of the floored sum of squares (= biased variance * fan-in), scale."""
    out = np.zeros_like(weight)
    for o in range(weight.shape[0]):
        row = weight[o].ravel().tolist()
        mean = math.fsum(row) / len(row)
        variance = math.fsum((w - mean) ** 2 for w in row) / len(row)
        scale = 1 / math.sqrt(max(variance * len(row), eps))
        out[o] = np.array([gain[o] * (w - mean) * scale for w in row]).reshape(weight[o].shape)
    return out


def twin_standardize_backward(weight, gain, eps, d_out):
    """Gradients of a loss whose gradient with respect to the standardized weight is d_out."""
    d_weight, d_gain = np.zeros_like(weight), np.zeros_like(gain)
    for o in range(weight.shape[0]):
        row, d_row = weight[o].ravel().tolist(), d_out[o].ravel().tolist()
        mean = math.fsum(row) / len(row)
        centred = [w - mean for w in row]
        square = math.fsum(c * c for c in centred)
        scale = 1 / math.sqrt(max(square, eps))
        along = math.fsum(d * c for d, c in zip(d_row, centred, strict=True))
        d_gain[o] = along * scale
        # d scale / d c_j = -c_j * scale^3 above the floor, 0 on it
        bend = scale**3 if square > eps else 0.0
        d_centred = [gain[o] * (d * scale - along * bend * c) for d, c in zip(d_row, centred, strict=True)]
        d_mean = math.fsum(d_centred) / len(row)
        d_weight[o] = np.array([d - d_mean for d in d_centred]).reshape(weight[o].shape)
    return d_weight, d_gain


def source(position, size, mode):
    """Where a padded position takes its value from; None is a zero."""
    if 0 <= position < size:
        return position
    if mode == "zeros":
        return None
    if mode == "circular":
        return position % size
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    return -position if position < 0 else 2 * (size - 1) - position  # reflect, the edge not repeated


@dataclass
class Case:
    batch: int
    groups: int
    in_per_group: int
    out_per_group: int
    kernel: tuple
    stride: tuple
    dilation: tuple
    padding: object
    mode: str
    size: tuple
    bias: bool
    gain: bool

    def layer(self, **extra):
        arguments = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias,
            "padding_mode": self.mode,
            "gain": self.gain,
            "dtype": torch.float64,
        }
        channels = self.in_per_group * self.groups, self.out_per_group * self.groups
        return WSConv2d(*channels, self.kernel, **(arguments | extra))

    def pads(self, axis):
        if self.padding == "valid":
            return 0, 0
        if self.padding == "same":
            total = self.dilation[axis] * (self.kernel[axis] - 1)
            return total // 2, total - total // 2
        return self.padding[axis], self.padding[axis]

    def out_size(self, axis):
        padded = self.size[axis] + sum(self.pads(axis))
        return (padded - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1

    def taps(self):
        """Every product of the convolution, as indices into output, weight and input."""
        out = self.out_per_group * self.groups
        rows, columns = range(self.out_size(0)), range(self.out_size(1))
        for n, o, y, x in itertools.product(range(self.batch), range(out), rows, columns):
            first = o // self.out_per_group * self.in_per_group
            for c, i, j in itertools.product(range(self.in_per_group), range(self.kernel[0]), range(self.kernel[1])):
                v = source(y * self.stride[0] + i * self.dilation[0] - self.pads(0)[0], self.size[0], self.mode)
                u = source(x * self.stride[1] + j * self.dilation[1] - self.pads(1)[0], self.size[1], self.mode)
                if v is not None and u is not None:
                    yield (n, o, y, x), (o, c, i, j), (n, first + c, v, u)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def cases(draw):
    padding = draw(st.one_of(pairs(0, 2), st.sampled_from(["same", "valid"])))
    return Case(
        batch=draw(st.integers(1, 2)),
        groups=draw(st.integers(1, 3)),
        in_per_group=draw(st.integers(1, 2)),
        out_per_group=draw(st.integers(1, 2)),
        kernel=draw(pairs(1, 3)),
        stride=(1, 1) if padding == "same" else draw(pairs(1, 2)),
        dilation=draw(pairs(1, 2)),
        padding=padding,
        mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        size=draw(pairs(5, 6)),
        bias=draw(st.booleans()),
        gain=draw(st.booleans()),
    )


def fill(case, layer, seed):
    """Random parameters; some filters so small that the floor holds them, some far from zero mean."""
    generator = np.random.default_rng(seed)
    out = layer.out_channels
    values = generator.normal(size=layer.weight.shape) * generator.choice([1e-4, 1.0, 30.0], size=(out, 1, 1, 1))
    values += generator.choice([0.0, 2.0], size=(out, 1, 1, 1))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values))
        for vector in (layer.bias, layer.gain):
            if vector is not None:
                vector.copy_(torch.from_numpy(generator.normal(size=out)))
    image = generator.normal(size=(case.batch, layer.in_channels, *case.size))
    d_out = generator.normal(size=(case.batch, out, case.out_size(0), case.out_size(1)))
    return image, d_out


def check_against_twin(case, seed):
    layer = case.layer()
    image, d_out = fill(case, layer, seed)
    x = torch.from_numpy(image).requires_grad_()
    out = layer(x)
    out.backward(torch.from_numpy(d_out))

    weight = layer.weight.detach().numpy()
    gain = layer.gain.detach().numpy() if case.gain else np.ones(layer.out_channels)
    w_hat = twin_standardize(weight, gain, EPS)
    expected, d_hat, d_image = np.zeros_like(d_out), np.zeros_like(weight), np.zeros_like(image)
    if case.bias:
        expected += layer.bias.detach().numpy()[None, :, None, None]
    for at_out, at_weight, at_image in case.taps():
        expected[at_out] += w_hat[at_weight] * image[at_image]
        d_hat[at_weight] += d_out[at_out] * image[at_image]
        d_image[at_image] += d_out[at_out] * w_hat[at_weight]
    d_weight, d_gain = twin_standardize_backward(weight, gain, EPS, d_hat)

    np.testing.assert_allclose(layer.standardized_weight().detach().numpy(), w_hat, **EXACT)
    np.testing.assert_allclose(out.detach().numpy(), expected, **EXACT)
    np.testing.assert_allclose(x.grad.numpy(), d_image, **EXACT)
    # On the floor the gradient is 100 times the signal's and its terms cancel: compare to the row's scale.
    np.testing.assert_allclose(
        layer.weight.grad.numpy(), d_weight, rtol=1e-10, atol=1e-10 * max(1, abs(d_weight).max())
    )
    if case.gain:
        np.testing.assert_allclose(layer.gain.grad.numpy(), d_gain, **EXACT)
    if case.bias:
        np.testing.assert_allclose(layer.bias.grad.numpy(), d_out.sum((0, 2, 3)), **EXACT)


# torch's note that it pads unevenly itself; the numbers are what is compared here
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(deadline=None, max_examples=200)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_forward_and_all_gradients_equal_the_twins(case, seed):
    check_against_twin(case, seed)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(2, 1), "same", "valid"])
def test_every_padding_equals_the_twins(mode, padding):
    stride = (1, 1) if padding == "same" else (2, 1)
    check_against_twin(Case(2, 2, 2, 1, (3, 3), stride, (1, 2), padding, mode, (6, 5), bias=True, gain=True), seed=7)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4, 1, 1), (6, 1, 3, 3), (1, 4, 3, 3), (6, 1, 1, 5), (6, 7)])
@pytest.mark.parametrize("last", ["weight", "gradient", "both"])
def test_the_layout_of_weights_and_gradients_changes_nothing(shape, last):
    """Torch calls some channels_last weights contiguous, and its kernel takes them for the other layout still."""
    torch.manual_seed(0)
    weight, gain, upstream = torch.randn(shape), torch.rand(shape[0]), torch.randn(shape)
    found = []
    for by_pixel in (False, True):
        filters, factors, gradient = weight.clone(), gain.clone().requires_grad_(), upstream
        if by_pixel and len(shape) == 4:
            strides = torch.empty(shape, memory_format=torch.channels_last).stride()
            if last != "gradient":
                filters = torch.empty_strided(shape, strides).copy_(weight)
            if last != "weight":
                gradient = torch.empty_strided(shape, strides).copy_(upstream)
        filters.requires_grad_()
        out = standardize(filters, factors, EPS)
        out.backward(gradient)
        found.append((out.detach(), filters.grad, factors.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradcheck():
    layer = WSConv2d(4, 4, 3, padding=1, groups=2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0].mul_(1e-3)  # on the floor
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)

    def run(x, weight, bias, gain):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias, "gain": gain}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias, layer.gain))


@given(groups=st.integers(1, 4), per_group=st.integers(1, 3), kernel=st.integers(2, 4), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_rows_have_mean_zero_and_norm_one(groups, per_group, kernel, seed):
    torch.manual_seed(seed)
    layer = WSConv2d(groups * per_group, 2 * groups, kernel, groups=groups, dtype=torch.float64)
    rows = layer.standardized_weight().flatten(1)
    assert layer.fan_in == rows.shape[1] == per_group * kernel**2
    torch.testing.assert_close(rows.mean(1), torch.zeros(2 * groups, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2 * groups, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_gain_is_the_norm_of_the_row():
    layer = WSConv2d(3, 4, 3)
    gain = torch.tensor([0.0, -1.0, 0.5, 2.0])
    layer.gain.data.copy_(gain)
    torch.testing.assert_close(layer.standardized_weight().flatten(1).norm(dim=1), gain.abs())


def test_constant_filters_give_zeros():
    layer = WSConv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1.0, -3.7, 1e6]).view(4, 1, 1, 1))
    # 1e6 in float32: what the mean is off by (0.06 = one unit in the last place), times the largest scale, 100
    torch.testing.assert_close(layer.standardized_weight()[:3], torch.zeros(3, 3, 3, 3), rtol=0, atol=1e-4)
    out = layer(torch.randn(1, 3, 5, 5))
    out.sum().backward()
    assert out.isfinite().all()
    assert layer.weight.grad.isfinite().all()


def test_fan_in_one_is_legal_and_gives_the_bias():
    layer = WSConv2d(1, 2, 1)
    layer.bias.data.copy_(torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(layer(torch.randn(1, 1, 2, 2)), layer.bias.view(1, 2, 1, 1).expand(1, 2, 2, 2))


@given(factor=st.floats(0.1, 1e4), shift=st.floats(-10, 10))
@settings(deadline=None, max_examples=30)
def test_scale_and_mean_of_a_filter_do_not_matter(factor, shift):
    layer = WSConv2d(3, 4, 3, dtype=torch.float64)
    before = layer.standardized_weight().detach()
    layer.weight.data.mul_(factor).add_(shift)
    torch.testing.assert_close(layer.standardized_weight().detach(), before, rtol=1e-9, atol=1e-9)


def test_the_gradient_is_orthogonal_to_the_filter_and_shrinks_with_its_norm():
    layer, x = WSConv2d(3, 4, 3, dtype=torch.float64), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    layer(x).square().sum().backward()
    gradient = layer.weight.grad.clone()
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close((gradient * layer.weight).sum((1, 2, 3)), zero, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient.sum((1, 2, 3)), zero, rtol=0, atol=1e-10)
    layer.weight.data.mul_(8)
    layer.weight.grad = None
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, gradient / 8)


def test_the_floor_holds_small_filters():
    layer = WSConv2d(3, 1, 3, eps=0.25, dtype=torch.float64)
    centred = layer.weight.data - layer.weight.data.mean()
    layer.weight.data.copy_(centred / centred.norm() * 0.4)  # 0.4^2 < 0.25
    torch.testing.assert_close(layer.standardized_weight().detach(), layer.weight.detach() / 0.5)


def test_depthwise():
    layer = WSConv2d(6, 6, 3, padding=1, groups=6)
    assert layer.fan_in == 9
    x = torch.randn(2, 6, 5, 5)
    alone = torch.cat(
        [nn.functional.conv2d(x[:, c : c + 1], layer.standardized_weight()[c : c + 1], padding=1) for c in range(6)], 1
    )
    torch.testing.assert_close(layer(x), alone)


def test_unbatched_input_and_half_precision_weights():
    layer = WSConv2d(3, 4, 3)
    x = torch.randn(3, 5, 5)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    assert layer.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


def test_arguments_are_conv2ds_in_its_order():
    arguments = (4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, False, "reflect", "cpu", torch.float64)
    ours, theirs = WSConv2d(*arguments), nn.Conv2d(*arguments)
    for name in nn.Conv2d.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.weight.shape == theirs.weight.shape
    assert ours.weight.dtype == torch.float64
    ours.weight.data.copy_(theirs.weight.data)
    x = torch.randn(1, 4, 7, 7, dtype=torch.float64)
    assert ours(x).shape == theirs(x).shape


def test_state_dict_keys_and_initial_values():
    torch.manual_seed(3)
    layer = WSConv2d(64, 256, 5)
    assert list(layer.state_dict()) == ["weight", "bias", "gain"]
    assert torch.equal(layer.gain, torch.ones(256))
    assert torch.equal(layer.bias, torch.zeros(256))
    # 256 squared norms, each of mean 1 and standard deviation sqrt(2 / 1600): their mean is within 0.0022 (1 sigma)
    assert layer.weight.square().sum((1, 2, 3)).mean().item() == pytest.approx(1, abs=0.02)
    assert list(WSConv2d(3, 4, 3, bias=False, gain=False).state_dict()) == ["weight"]
    layer.gain.data.zero_()
    layer.reset_parameters()
    assert torch.equal(layer.gain, torch.ones(256))


def test_repr_shows_what_is_new():
    assert "eps=0.0001, gain=True" in repr(WSConv2d(3, 4, 3))


@pytest.mark.parametrize("eps", [0.0, -1e-4, math.nan, math.inf])
def test_eps_out_of_range(eps):
    with pytest.raises(ValueError, match="eps"):
        WSConv2d(3, 4, 3, eps=eps)


@pytest.mark.parametrize(("in_channels", "kernel"), [(0, 3), (3, (0, 3))])
def test_filters_without_weights(in_channels, kernel):
    with pytest.raises(ValueError, match="at least one weight"):
        WSConv2d(in_channels, 4, kernel)
