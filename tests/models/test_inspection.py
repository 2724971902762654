"""The networks called normalization-free are; and the detector sees what is planted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedwon.models import (
    WSConv2d,
    available_models,
    build_model,
    functional_statistics,
    is_normalization_free,
    normalization_layers,
)

SIZE = 64  # pixels, which every network takes


@pytest.fixture(params=[(name, constant) for name in available_models() for constant in (False, True)], ids=str)
def free(request):
    name, constant = request.param
    return build_model(name, normalization="none", width=0.25, image_size=SIZE, relu_constant=constant).train()


def images(count, seed=0, size=28):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_no_layer_and_no_functional_takes_statistics(free):
    assert normalization_layers(free) == []
    assert functional_statistics(free, images(3, size=SIZE)) == []
    assert is_normalization_free(free, images(3, size=SIZE))


def test_the_output_for_one_image_does_not_depend_on_the_others(free):
    mine, others, more = images(1, size=SIZE), images(3, seed=1, size=SIZE), 100 * images(3, seed=2, size=SIZE)
    first = free(torch.cat([mine, others]))[0]
    # Same shapes, so the same kernels in the same order: not one bit may change.
    assert torch.equal(first, free(torch.cat([mine, more]))[0])
    # Another batch size may block its matrix products otherwise, which reorders sums: in float64 that is some 1e-16
    # of the summands, and the sums are shorter than 1e4.
    free.double()
    alone, among = free(mine.double())[0], free(torch.cat([mine, others]).double())[0]
    torch.testing.assert_close(alone, among, rtol=1e-11, atol=1e-11)


def test_training_and_inference_are_the_same_function(free):
    x = images(2, size=SIZE)
    assert torch.equal(free.train()(x), free.eval()(x))


@pytest.mark.parametrize("normalization", ["batch", "group", "layer"])
def test_the_normalized_variants_are_found_out(normalization):
    model = build_model("digit_cnn", normalization=normalization, width=0.125)
    names = [name for name, _ in normalization_layers(model)]
    assert names == ["conv1.norm", "conv2.norm", "conv3.norm", "fc1.norm", "fc2.norm"]
    assert [use.module for use in functional_statistics(model, images(2))] == names
    assert not is_normalization_free(model, images(2))


class Planted(nn.Module):
    """A convolution, then whatever is given."""

    def __init__(self, function):
        super().__init__()
        self.conv = WSConv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


VIOLATIONS = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "instance_norm": F.instance_norm,
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "normalize": F.normalize,
    "batch mean": lambda x: x - x.mean(0),
    "variance": lambda x: x / x.var(),
    "deviation per image": lambda x: x / torch.std(x, dim=(1, 2, 3), keepdim=True),
    "var_mean": lambda x: x - torch.var_mean(x, dim=0)[1],
    "mean by sum": lambda x: x - x.sum(0) / len(x),
    "range": lambda x: x / x.max(),
    "range by dim": lambda x: x / x.amax(0),
    "quantile": lambda x: x / x.quantile(0.9),
    "of a view": lambda x: x - x.flatten(1).t()[:2].mean(),
    "of a detached": lambda x: x - x.detach().mean(),
    "of .data": lambda x: x - x.data.mean(),
    "of a copy": lambda x: x - torch.zeros(x.shape).copy_(x).mean(),
    "of an out argument": lambda x: x - torch.mul(x.detach(), 1, out=torch.empty(0)).mean(),
}


def assign(x):
    memory = torch.zeros(x.shape)
    memory[0] = x[0].detach()
    return x - memory.mean()


@torch.library.custom_op("fedwon_tests::write", mutates_args={"memory"})
def write(memory: torch.Tensor, x: torch.Tensor) -> None:
    memory.copy_(x)


def custom(x):
    memory = torch.zeros(x.shape)
    write(memory, x.detach())  # gives its result by its argument alone
    return x - memory.mean()


VIOLATIONS |= {"of an assignment": assign, "of a custom operation": custom}


@pytest.mark.parametrize("function", VIOLATIONS.values(), ids=VIOLATIONS)
def test_planted_statistics_are_seen(function):
    model = Planted(function)
    found = functional_statistics(model, torch.randn(3, 3, 8, 8))
    assert found
    assert {use.module for use in found} == {""}
    assert not is_normalization_free(model, torch.randn(3, 3, 8, 8))


class OnlyInEvaluation(nn.Module):
    def forward(self, x):
        return x if self.training else F.layer_norm(x, x.shape[1:])


def test_evaluation_is_watched_too():
    assert functional_statistics(OnlyInEvaluation(), torch.randn(2, 3))


ALLOWED = {
    "global pooling": lambda x: F.adaptive_avg_pool2d(x, 1),
    "global pooling, module": nn.AdaptiveAvgPool2d(1),
    "pooling": lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2),
    "activations": lambda x: F.silu(F.relu_(x)) * torch.sigmoid(x),
    "elementwise maximum": lambda x: torch.max(x, torch.zeros_like(x)),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "statistics of weights": lambda x: x * torch.ones(4, 1, 1).var(0) + torch.ones(3, 5).mean(),
    "weights through a norm kernel": lambda x: x + F.layer_norm(torch.ones(4, 1, 1), (1,)),
}


@pytest.mark.parametrize("function", ALLOWED.values(), ids=ALLOWED)
def test_what_is_no_statistic_of_activations_is_left_alone(function):
    assert functional_statistics(Planted(function), torch.randn(3, 3, 8, 8)) == []


def test_weight_standardization_by_a_batch_norm_kernel_is_allowed():
    class Fused(nn.Conv2d):
        def forward(self, x):
            rows = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
            return self._conv_forward(x, weight, self.bias)

    assert functional_statistics(Fused(3, 4, 3), torch.randn(2, 3, 8, 8)) == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2),
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        nn.RMSNorm(2),
        nn.InstanceNorm1d(2),
        nn.InstanceNorm2d(2),
        nn.InstanceNorm3d(2),
        nn.LocalResponseNorm(2),
        nn.CrossMapLRN2d(2),
        nn.LazyBatchNorm2d(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_are_found_by_type_wherever_they_hide(layer):
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"innocent": nn.ModuleList([layer])}))
    assert normalization_layers(model) == [("1.innocent.0", layer)]
    assert normalization_layers(layer) == [("", layer)]


def test_a_hidden_batch_norm_1d_counts_though_it_never_runs():
    model = Planted(nn.Identity())
    model.spare = nn.BatchNorm1d(4)
    assert functional_statistics(model, torch.randn(2, 3, 8, 8)) == []
    assert not is_normalization_free(model, torch.randn(2, 3, 8, 8))


def test_the_name_of_the_place_comes_with_it():
    inner = Planted(lambda x: x - x.mean(0))
    model = nn.Sequential(nn.Identity(), nn.Sequential(inner))
    (use,) = functional_statistics(model, torch.randn(2, 3, 8, 8))
    assert (use.module, use.operation) == ("1.0", "aten::mean")


def test_watching_leaves_no_trace():
    model = build_model("digit_cnn", normalization="batch", width=0.125).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x = images(2)
    functional_statistics(nn.Sequential(nn.Dropout(), model), x)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model._forward_hooks
    assert torch.equal(x, images(2))


def test_several_arguments():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x + y - y.mean()

    assert functional_statistics(Sum(), (torch.randn(2, 3), torch.randn(2, 3)))
