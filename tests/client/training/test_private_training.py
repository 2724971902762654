"""Private training against slow twins: one image after the other, by torch's own gradient."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedwon.client.training import grad_samplers
from fedwon.client.training import private as module
from fedwon.client.training.grad_samplers import ExampleGradients
from fedwon.client.training.local import train
from fedwon.client.training.private import Mechanism, clipped_sum, planned, train_privately
from fedwon.common.accounting import Spent
from fedwon.common.errors import MissingExtra, TaskFailed
from fedwon.common.task_settings import TrainingConfig
from fedwon.models import OffsetWSConv2d, WSConv2d, WSLinear, build_model
from tests.client.test_local_training import images_of, network

NETWORKS = ("digit_cnn", "alexnet", "resnet18", "mobilenet_v2", "efficientnet_b0")


def everybody(count):
    return np.zeros(count)


def silence(count):
    return np.zeros(count)


def mechanism(clip=1e9, noise=0.0, **draws) -> Mechanism:
    return Mechanism(clip, noise, **{"uniform": everybody, "normal": silence, **draws})


def one_by_one(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """The slow twin: a pass for each image."""
    rows = []
    parameters = list(model.parameters())
    for place in range(len(labels)):
        loss = cross_entropy(model(inputs[place : place + 1]), labels[place : place + 1])
        rows.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    return [
        torch.stack([torch.zeros_like(parameter) if row[index] is None else row[index] for row in rows])
        for index, parameter in enumerate(parameters)
    ]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-4) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * (1e-4 + other.norm()), (one - other).abs().max()


@pytest.mark.parametrize("normalization", ["none", "group", "layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_image_has_the_gradient_that_it_has_alone(name, normalization):
    torch.manual_seed(3)
    settings = {"relu_constant": True, "linear": "standardized", "skip_gain": 1.75} if normalization == "none" else {}
    size = 8 if name == "digit_cnn" else 64 if name == "alexnet" else 32
    model = build_model(
        name, normalization=normalization, num_classes=4, width=0.1, in_channels=3, image_size=size, **settings
    ).double()
    inputs, labels = torch.randn(3, 3, size, size).double(), torch.tensor([0, 3, 1])
    wanted = one_by_one(model.train(), inputs, labels)
    gradients = ExampleGradients(model)
    assert_close([one.double() for one in gradients.of(inputs, labels)], wanted, 1e-7)
    state = model.state_dict()
    gradients.close()
    assert list(model.state_dict()) == list(state)
    assert not any(hasattr(parameter, "grad_sample") for parameter in model.parameters())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("more", [{"padding": 1}, {"padding": "same"}, {"padding": 2, "stride": 2, "dilation": 2}])
@pytest.mark.parametrize("kind", [nn.Conv2d, WSConv2d, OffsetWSConv2d])
def test_convolutions_of_all_kinds(kind, more, groups):
    torch.manual_seed(1)
    conv = kind(4, 8, 3, groups=groups, padding_mode="circular" if groups == 2 else "zeros", **more).double()
    model = nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(3).double())
    inputs, labels = torch.randn(3, 4, 7, 7).double(), torch.tensor([0, 2, 1])
    model(inputs)
    wanted = one_by_one(model, inputs, labels)
    assert_close(ExampleGradients(model).of(inputs, labels), wanted, 1e-7)


def test_a_filter_below_the_floor_has_its_gradient_too():
    conv, linear = WSConv2d(2, 2, 3).double(), WSLinear(8, 4).double()
    with torch.no_grad():
        conv.weight[0] = 0.5 + 1e-4 * torch.randn(2, 3, 3)
        linear.weight[1] = 0.5 + 1e-4 * torch.randn(8)
        linear.gain[:] = torch.randn(4)
        conv.gain[:] = torch.randn(2)
    model = nn.Sequential(conv, nn.Flatten(), linear, nn.Linear(4, 2).double())
    inputs, labels = torch.randn(2, 2, 4, 4).double(), torch.tensor([0, 1])
    wanted = one_by_one(model, inputs, labels)
    assert_close(ExampleGradients(model).of(inputs, labels), wanted, 1e-7)


def test_batch_norm_is_refused_with_the_reason():
    with pytest.raises(TaskFailed, match="mixes the images of a batch"):
        ExampleGradients(network("batch"))


def test_without_opacus_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    spec = importlib.util.spec_from_file_location("without_opacus", grad_samplers.__file__)
    with pytest.raises(MissingExtra, match="Opacus is not installed") as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "fedwon[privacy]" in caught.value.hint


def test_a_parameter_that_no_rule_sees_is_noticed():
    class Sly(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x) + nn.functional.linear(x, self.linear.weight)

    with pytest.raises(TaskFailed, match=r"do not add up.*linear\.weight"):
        ExampleGradients(Sly()).of(torch.randn(3, 4), torch.tensor([0, 1, 1]))


def test_at_batch_1_without_noise_and_bound_it_is_plain_training():
    """The check of issue 7: the same steps as the plain loop, image by image."""
    images, settings = images_of(6), TrainingConfig(lr=0.05, momentum=0.9, weight_decay=1e-3, clipping=0.16)
    plain, private = network(), network()
    one = images_of(1)
    for seed in range(3):
        train(plain, one, settings, batch_size=1, minimum_batch=1, seed=seed)
        train_privately(private, one, settings, Spent(1.0, 1.0, 1), mechanism(), seed=seed)
    assert_close(list(private.state_dict().values()), list(plain.state_dict().values()), 1e-5)
    # and of a batch with all images: the mean gradient
    train(plain, images, settings, batch_size=6, minimum_batch=1, seed=1)
    train_privately(private, images, settings, Spent(1.0, 1.0, 1), mechanism(), seed=1)
    assert_close(list(private.state_dict().values()), list(plain.state_dict().values()), 1e-5)


def test_gradients_are_clipped_as_by_hand(monkeypatch):
    images, model, clip = images_of(7), network(), 0.3
    batch = next(images.batches([range(7)]))
    alone = one_by_one(network().train(), batch.inputs, batch.labels)
    wanted = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for place in range(7):
        length = math.sqrt(sum(float((part[place] ** 2).sum()) for part in alone))
        assert length > clip
        for total, part in zip(wanted, alone, strict=True):
            total.add_(part[place] * (clip / length) / 7)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    monkeypatch.setattr(module, "HELD", 2 * sum(parameter.numel() for parameter in model.parameters()))  # two at a time
    train_privately(model, images, TrainingConfig(lr=1.0), Spent(1.0, 1.0, 1), mechanism(clip), seed=1)
    moved = [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]
    assert_close(moved, wanted, 1e-3)
    assert math.sqrt(sum(float((part**2).sum()) for part in moved)) <= clip * (1 + 1e-5)


def test_short_gradients_are_left_and_what_is_not_finite_counts_as_none():
    gradients = [torch.tensor([[3.0, 0.0], [0.0, 0.1], [math.nan, 1.0], [math.inf, 0.0]])]
    assert torch.equal(clipped_sum(gradients, 1.0)[0], torch.tensor([1.0, 0.1]))
    assert torch.equal(clipped_sum([torch.zeros(3, 2)], 1.0)[0], torch.zeros(2))
    assert clipped_sum([torch.zeros(0, 2)], 1.0)[0].shape == (2,)


def test_the_noise_is_as_strong_as_it_says():
    model, settings = network(), TrainingConfig(lr=1.0)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    nobody = mechanism(0.5, 4.0, uniform=np.ones, normal=np.random.default_rng(1).standard_normal)
    train_privately(model, images_of(8), settings, Spent(4.0, 0.25, 1), nobody, seed=1)
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before
    assert moved.std().item() == pytest.approx(4.0 * 0.5 / (8 * 0.25), rel=0.05)  # an empty batch: noise alone
    assert moved.mean().item() == pytest.approx(0, abs=0.1)


def test_noise_and_batches_do_not_follow_from_the_seed_and_the_rest_of_the_process_stays():
    weights = []
    state = torch.random.get_rng_state()
    for _ in range(2):
        model = network()
        train_privately(model, images_of(9), TrainingConfig(), Spent(1.0, 0.5, 2), Mechanism(1.0, 1.0), seed=1)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert not torch.equal(*weights)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_are_drawn_image_by_image():
    drawn = [module._drawn(Mechanism(1.0, 1.0), 1000, 0.1) for _ in range(20)]
    sizes = [len(lot) for lot in drawn]
    assert 80 < np.mean(sizes) < 120  # six standard deviations
    assert np.std(sizes) > 3
    assert len({tuple(lot) for lot in drawn}) == 20


def test_what_is_planned():
    assert planned(100, 10, TrainingConfig(epochs=3), 1.0) == Spent(1.0, 0.1, 30)
    assert planned(100, 8, TrainingConfig(), 2.0) == Spent(2.0, 0.08, 13)
    assert planned(3, 8, TrainingConfig(steps=5), 2.0) == Spent(2.0, 1.0, 5)
    with pytest.raises(TaskFailed, match="no image"):
        planned(0, 8, TrainingConfig(), 1.0)


def test_training_without_noise_learns():
    model, images = network(), images_of(24)
    settings = TrainingConfig(lr=0.5)
    outcome = train_privately(model, images, settings, Spent(1.0, 1.0, 120), mechanism(1.0), seed=1)
    batch = next(images.batches([range(24)]))
    assert (model(batch.inputs).argmax(1) == batch.labels).float().mean() > 0.9
    assert math.isnan(outcome.loss)
    assert (outcome.examples, outcome.steps) == (24, 120)
