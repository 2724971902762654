"""Alternatives to the training step compute what is in use, and the page shows how each stands."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.stepping import alternatives, forms, kernels, timing, tried
from benchmarks.stepping.alternatives import ALTERNATIVES, IN_USE, clip_and_move
from fedwon.client.training.sgd import SGD
from fedwon.models import AdaptiveGradientClipping, WSConv2d, build_model

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = "digit_cnn"
TRAINING_STEPS = [one for one in ALTERNATIVES if one.against != "forward pass"]


def small(name="digit_cnn", form="standardized"):
    torch.manual_seed(0)
    return build_model(name, normalization="none", image_size=28, width=0.05)


@pytest.fixture
def made(monkeypatch):
    """Each network that is made, in place of the whole ones."""
    networks = []

    def _make(name, form):
        networks.append(small())
        return networks[-1]

    monkeypatch.setattr(alternatives, "network_of", _make)
    monkeypatch.setattr(forms, "TRAINING", forms.TRAINING.model_copy(update={"lr": 0.1}))
    monkeypatch.setattr(alternatives, "TRAINING", forms.TRAINING)
    return networks


@pytest.mark.parametrize("name", [name for name in kernels.KERNELS if not name.startswith("none")])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 1, 3, 3), (4, 8, 1, 1)])
def test_every_kernel_standardizes(name, shape):
    torch.manual_seed(1)
    layer = WSConv2d(shape[1], shape[0], shape[2]).double()
    torch.nn.init.uniform_(layer.gain, 0.5, 2.0)
    rows = layer.weight.detach().flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    expected = (layer.gain.detach()[:, None] * rows / rows.norm(dim=1, keepdim=True)).view(shape)
    got = kernels.KERNELS[name](layer.weight, layer.gain)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(shape, dtype=torch.float64)
    gradients = torch.autograd.grad(got, (layer.weight, layer.gain), upstream)
    ours = torch.autograd.grad(layer.standardized_weight(), (layer.weight, layer.gain), upstream)
    torch.testing.assert_close(gradients, ours)


@pytest.mark.parametrize(
    "one", [one for one in ALTERNATIVES if one.against != "forward pass"], ids=lambda one: one.name
)
def test_every_alternative_takes_the_step_that_is_in_use(one, made):
    one.make(SMALL, 2)()
    IN_USE[one.against](SMALL, 2)()
    theirs, ours = ([p.detach() for p in model.parameters()] for model in made)
    start = [p.detach() for p in small().parameters()]
    loose = {"rtol": 0.1, "atol": 0.02} if "bfloat16" in one.name else {"rtol": 1e-4, "atol": 1e-5}
    for before, mine, used in zip(start, theirs, ours, strict=True):
        torch.testing.assert_close(mine - before, used - before, **loose)
    assert any(not torch.equal(before, mine) for before, mine in zip(start, theirs, strict=True))


def test_a_unit_that_is_too_large_is_clipped_while_it_moves():
    model = small()
    for parameter in model.parameters():
        sizes = torch.logspace(-4, 0, len(parameter)).view(-1, *[1] * (parameter.ndim - 1))
        parameter.grad = torch.randn_like(parameter) * sizes
    twin = copy.deepcopy(model)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = parameter.grad.clone()
    share = clip_and_move(model, AdaptiveGradientClipping(model, 0.5), 0.1)
    expected = AdaptiveGradientClipping(twin, 0.5).clip()
    SGD(twin.parameters(), forms.TRAINING.model_copy(update={"lr": 0.1})).step()
    assert share == pytest.approx(expected)
    assert 0 < share < 1
    for mine, used in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, used)


def test_kept_weights_predict_the_same(made):
    steps = [alternatives.prediction(SMALL, 2, folded=folded) for folded in (False, True)]
    images, _ = forms.images_of(SMALL, 2)
    assert len(steps) == len(made) == 2
    assert torch.equal(made[0](images), alternatives.fold(made[1])(images))


def test_the_page_has_a_row_and_a_standing_for_each(monkeypatch, made):
    monkeypatch.setattr(kernels, "SHAPES", {"4x2x3x3": (4, 2, 3, 3)})
    monkeypatch.setattr(alternatives, "BATCHES", (1, 2))
    for place in (kernels, alternatives):
        monkeypatch.setattr(place, "in_turn", lambda steps, seconds: timing.in_turn(steps, seconds, fewest=2))
    found = {"kernels": kernels.measure(0), "networks": alternatives.measure([SMALL], 0)}
    assert found["kernels"]["4x2x3x3"][kernels.IN_USE]["ratio"] == [1.0, 1.0, 1.0]
    rows = [line.split(" | ")[:3] for line in alternatives.table(found["networks"]).splitlines() if line[:2] == "| "]
    assert rows[1:] == [[f"| {one.name}", one.against, batch] for one in ALTERNATIVES for batch in "12"]
    taken = {
        "date": "2026-11-26",
        "elapsed_seconds": 1.0,
        "machine": {"processor": "x", "capability": "y", "logical_processors": 2, "load_before": 0.0},
        "versions": {"python": "3", "torch": "2"},
    }
    page = tried.page({**found, **taken})
    assert all(f"- {one.name}: {one.standing}." in page for one in ALTERNATIVES)
    assert alternatives.NOT_APPLICABLE in page
    assert page.endswith("load before: 0.0), Python 3, torch 2 (CPU).")
