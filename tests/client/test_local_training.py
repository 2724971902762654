"""Local training: repeatable, whole, and what it says it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedwon.client.images.decoding import Preparation
from fedwon.client.images.image_set import ImageSet, Room, load_images
from fedwon.client.images.listing import Wanted
from fedwon.client.images.prefetch import THREAD_NAME
from fedwon.client.training import local as module
from fedwon.client.training.local import batch_sizes, evaluate, train
from fedwon.client.training.progress import Cancelled, watch
from fedwon.common.errors import TaskFailed
from fedwon.common.task_settings import ImageConfig, TrainingConfig
from fedwon.models import AdaptiveGradientClipping, build_model

CLASSES = ("a", "b", "c")


class Bright:
    """Images whose brightness tells their class."""

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> Tensor:
        noise = torch.randint(0, 60, (1, 9, 9), generator=torch.Generator().manual_seed(index))
        return (noise + 90 * (index % 3)).to(torch.uint8)


def images_of(number: int, *, cached: bool = True) -> ImageSet:
    wanted = [Wanted(row, row % 3) for row in range(number)]
    preparation = Preparation(ImageConfig(size=8, channels=1))
    return load_images(Bright(), wanted, CLASSES, preparation, Room(2**20 if cached else 64 * 2))[0]


def network(normalization: str = "none", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(
            "digit_cnn", normalization=normalization, num_classes=3, width=0.05, in_channels=1, image_size=8
        )


def run(
    images: ImageSet, model: nn.Module | None = None, *, batch: int = 4, least: int = 1, seed: int = 5, **settings: Any
):
    model = model or network()
    outcome = train(model, images, TrainingConfig(**settings), batch_size=batch, minimum_batch=least, seed=seed)
    return model, outcome


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def slowly(images: ImageSet, model: nn.Module, training: TrainingConfig, sizes: list[int], seed: int) -> None:
    """The obvious version of one epoch: penalty in the loss, differentiated."""
    anchor = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(
        model.parameters(), training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    while order:
        size = sizes.pop(0)
        (batch,) = images.batches([order[:size]])
        order = order[size:]
        optimizer.zero_grad()
        loss = cross_entropy(model(batch.inputs), batch.labels)
        distance = sum(((w - a) ** 2).sum() for w, a in zip(model.parameters(), anchor, strict=True))
        (loss + (training.proximal_mu or 0) / 2 * distance).backward()
        if training.clipping:
            AdaptiveGradientClipping(model, training.clipping).clip()
        optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"clipping": 0.02},
        {"proximal_mu": 0.5},
        {"momentum": 0.5, "weight_decay": 0.01, "clipping": 0.02, "proximal_mu": 0.5},
    ],
)
def test_an_epoch_is_what_the_obvious_version_computes(settings: dict[str, float]) -> None:
    images, slow = images_of(10), network()
    fast, outcome = run(images, lr=0.1, **settings)
    slowly(images, slow, TrainingConfig(lr=0.1, **settings), [4, 4, 2], seed=5)
    torch.testing.assert_close(weights(fast), weights(slow), rtol=1e-5, atol=1e-7)
    assert (outcome.steps, outcome.examples) == (3, 10)
    assert (outcome.clipped_fraction > 0) == ("clipping" in settings)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_same_seed_gives_the_same_bits(batch: int) -> None:
    first, one = run(images_of(10), batch=batch, epochs=2)
    torch.rand(3)  # whatever else the process draws
    second, other = run(images_of(10), batch=batch, epochs=2)
    assert torch.equal(weights(first), weights(second))
    assert one.loss == other.loss
    third, _ = run(images_of(10), batch=batch, epochs=2, seed=6)
    assert batch == 100 or not torch.equal(weights(first), weights(third))


def test_images_decoded_in_the_background_give_the_same_bits() -> None:
    first, _ = run(images_of(10), epochs=2)
    second, _ = run(images_of(10, cached=False), epochs=2)
    assert torch.equal(weights(first), weights(second))


def test_what_the_network_draws_is_seeded_and_others_draws_are_left_alone() -> None:
    def dropped() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), network())

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, _ = run(images_of(10), dropped())
    assert torch.equal(torch.rand(3), expected)
    second, _ = run(images_of(10), dropped())
    assert torch.equal(weights(first), weights(second))


def test_training_learns() -> None:
    images = images_of(30)
    model, outcome = run(images, lr=0.1, epochs=30)
    assert evaluate(model, images).correct == 30
    assert 0 < outcome.loss < 1.1
    assert outcome.seconds > 0


def seen_by(model: nn.Module, call: Callable[[], object]) -> list[int]:
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    call()
    handle.remove()
    return sizes


def test_the_last_small_batch_is_trained_on() -> None:
    model = network()
    assert seen_by(model, lambda: run(images_of(9), model, epochs=2)) == [4, 4, 1, 4, 4, 1]


def test_batch_norm_gets_no_batch_of_one() -> None:
    model = network("batch")
    assert seen_by(model, lambda: run(images_of(9), model, least=2)) == [4, 5]
    model = network("batch")
    assert seen_by(model, lambda: run(images_of(10), model, least=2)) == [4, 4, 2]


def test_steps_take_the_place_of_epochs_and_shuffle_anew() -> None:
    model = network()
    rows: list[list[int]] = []
    images = images_of(9)
    original = ImageSet.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageSet, "batches", lambda self, chosen: original(self, (rows.append(r) or r for r in chosen)))
        _, outcome = run(images, model, steps=7, epochs=1)
    assert outcome.steps == 7
    assert [len(chosen) for chosen in rows] == [4, 4, 1, 4, 4, 1, 4]
    first, second = ([row for chosen in epoch for row in chosen] for epoch in (rows[:3], rows[3:6]))
    assert sorted(first) == sorted(second) == list(range(9))
    assert first != second
    assert len(seen_by(model, lambda: run(images, model, steps=1))) == 1


@given(images=st.integers(2, 300), batch=st.integers(1, 64), least=st.integers(1, 2))
def test_batches_hold_every_image_once(images: int, batch: int, least: int) -> None:
    if batch < least:
        return
    sizes = batch_sizes(images, batch, least)
    assert sum(sizes) == images
    assert min(sizes) >= least
    assert max(sizes) < batch + least
    assert set(sizes[:-1]) <= {batch}


def test_too_little_for_batch_norm_is_said() -> None:
    with pytest.raises(TaskFailed, match="batches of 1, and this network needs 2"):
        batch_sizes(10, 1, 2)
    with pytest.raises(TaskFailed, match="Images to train on at this site: 1;"):
        batch_sizes(1, 4, 2)
    with pytest.raises(TaskFailed, match="this site: 0;"):
        batch_sizes(0, 4, 1)


def test_the_proximal_term_pulls_back() -> None:
    start = weights(network())
    moved = [
        float((weights(run(images_of(30), lr=0.05, epochs=5, proximal_mu=mu)[0]) - start).norm()) for mu in (0, 1, 10)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def test_clipping_is_counted() -> None:
    assert run(images_of(10))[1].clipped_fraction == 0
    assert run(images_of(10), clipping=1e-6)[1].clipped_fraction > 0.5
    assert run(images_of(10), clipping=1e6)[1].clipped_fraction == 0


def test_a_loss_that_is_not_finite_ends_the_training_with_advice() -> None:
    with pytest.raises(TaskFailed, match=r"loss became (nan|inf) in step \d+ of 150") as caught:
        run(images_of(10), lr=1e6, epochs=50)
    assert "clipping" in caught.value.hint


def test_a_diverged_model_is_told_when_it_is_evaluated() -> None:
    model = network()
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TaskFailed, match="when the model was evaluated"):
        evaluate(model, images_of(4))


def test_progress_is_reported_and_cancelling_ends_the_work_and_its_threads() -> None:
    steps: list[tuple[int, int]] = []
    cancelled = threading.Event()

    def on_progress(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 4:
            cancelled.set()

    with watch(lambda *step: steps.append(step), threading.Event()):
        run(images_of(10))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    with pytest.raises(Cancelled), watch(on_progress, cancelled):
        run(images_of(10, cached=False), epochs=100)
    assert steps[-1] == (4, 300)
    assert not any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


def test_evaluation_counts_by_class() -> None:
    images = images_of(10)
    model = network()
    (batch,) = images.batches([range(10)])
    model.eval()
    with torch.no_grad():
        logits = model(batch.inputs)
    right = logits.argmax(1) == batch.labels
    result = evaluate(model, images)
    assert result.correct == int(right.sum()) == sum(result.class_correct)
    assert result.examples == 10
    assert result.class_examples == (4, 3, 3)
    assert result.class_correct == tuple(int(right[batch.labels == label].sum()) for label in range(3))
    assert result.loss == pytest.approx(float(cross_entropy(logits, batch.labels)), rel=1e-5)


@pytest.mark.parametrize("normalization", ["none", "batch", "group", "layer"])
def test_evaluation_does_not_depend_on_the_batch_size(normalization: str) -> None:
    images, model = images_of(10), network(normalization)
    whole = evaluate(model, images)
    for size in (1, 3, 9):
        part = evaluate(model, images, batch_size=size)
        assert part.class_correct == whole.class_correct
        assert part.loss == pytest.approx(whole.loss, rel=1e-5)


def test_each_batch_is_laid_out_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[nn.Module, int]] = []

    def note(model: nn.Module, images: Tensor) -> Tensor:
        seen.append((model, len(images)))
        return images

    monkeypatch.setattr(module, "laid_out", note)
    model, _ = run(images_of(10), batch=4)
    evaluate(model, images_of(5), batch_size=3)
    assert seen == [(model, count) for count in (4, 4, 2, 3, 2)]


def test_evaluation_leaves_the_model_as_it_was() -> None:
    model = network("batch")
    before = weights(model)
    evaluate(model.train(), images_of(5))
    assert model.training
    assert torch.equal(weights(model), before)
    evaluate(model.eval(), images_of(5))
    assert not model.training


def test_nothing_to_evaluate_on_is_zero() -> None:
    assert evaluate(network(), images_of(0)) == module.Evaluation(0.0, 0, 0, (0, 0, 0), (0, 0, 0))


def test_training_images_are_augmented_as_the_seed_says() -> None:
    images, settings = images_of(12), {"augmentation": {"flip_horizontal": True, "turn_degrees": 90.0}, "lr": 0.1}
    plain = run(images, lr=0.1)[0]
    changed, again = run(images, **settings)[0], run(images, **settings)[0]
    assert torch.equal(weights(changed), weights(again))
    assert not torch.equal(weights(changed), weights(plain))
