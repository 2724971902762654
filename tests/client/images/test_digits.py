"""The built-in set: real digits, four lines that share none of them, and a shift that a network feels."""

from __future__ import annotations

import hashlib
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from fedwon.client.config import DataConfig
from fedwon.client.images import digits
from fedwon.client.images.digits import SIZE, line_labels, line_names, load_line
from fedwon.client.images.opening import SiteData, open_site
from fedwon.client.training.local import evaluate, train
from fedwon.common.errors import DataMissing, MissingExtra
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.models import build_model

PARTS = ("train", "validation", "test")
CLASSES = tuple("0123456789")
RUN = RunConfig.model_validate(
    {
        "model": {"width": 0.25, "relu_constant": True},
        "training": {"epochs": 2, "batch_size": 8, "lr": 0.1, "clipping": 0.16},
    }
)

DIGESTS = {"paper": "3033c2a38ea2", "backlight": "281bfa6bcb05", "metal": "9e37b088a222", "tilted": "e230d333bddd"}


def test_every_digit_is_in_exactly_one_part_of_one_line() -> None:
    assert line_names() == ("paper", "backlight", "metal", "tilted")
    dealt = sum(len(load_line(name)[part].labels) for name in line_names() for part in PARTS)
    assert dealt == 1797
    labels = np.concatenate([load_line(name)[part].labels for name in line_names() for part in PARTS])
    assert np.array_equal(np.bincount(labels), np.bincount(load_digits().target))


def test_no_digit_is_dealt_twice() -> None:
    from fedwon.client.images import digits

    rows = [row for parts in digits._deal(load_digits().target) for rows in parts.values() for row in rows]
    assert sorted(rows) == list(range(1797))


@pytest.mark.parametrize("name", line_names())
def test_parts_are_stratified_and_of_the_promised_size(name: str) -> None:
    for part, share in (("train", 0.65), ("validation", 0.10), ("test", 0.25)):
        digits = load_line(name)[part]
        assert digits.images.dtype == np.uint8
        assert digits.images.shape == (len(digits.labels), SIZE, SIZE, 3)
        assert np.array_equal(line_labels(name)[part], digits.labels)
        assert len(digits.labels) == pytest.approx(share * 449, abs=6)
        counts = np.bincount(digits.labels, minlength=10)
        assert counts.max() - counts.min() <= 3


def test_every_machine_makes_the_same_pixels() -> None:
    digests = {name: hashlib.sha256(load_line(name)["test"].images.tobytes()).hexdigest()[:12] for name in line_names()}
    assert digests == DIGESTS


def test_lines_do_not_depend_on_the_order_they_are_asked_for() -> None:
    first = load_line("tilted")["train"].images.copy()
    load_line.cache_clear()
    load_line("paper")
    assert np.array_equal(load_line("tilted")["train"].images, first)


def test_what_is_kept_cannot_be_changed_by_its_readers() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_line("paper")["train"].images[0, 0, 0, 0] = 1


def test_a_line_that_is_not_there() -> None:
    for call in (load_line, line_labels):
        with pytest.raises(DataMissing, match="no line `x`") as caught:
            call("x")
        assert "paper, backlight, metal, tilted" in caught.value.hint


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "distribution", lambda _: distribution("no-such-package"))
    with pytest.raises(MissingExtra) as caught:
        line_labels("paper")
    assert "fedwon[digits]" in caught.value.hint


# --- the shift


def sites() -> dict[str, SiteData]:
    task = TaskConfig.of(RUN, run="test", server_round=1, classes=CLASSES)
    return {name: open_site(DataConfig(path=f"digits:{name}"), task, Path()) for name in line_names()}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_model("digit_cnn", width=RUN.model.width, relu_constant=True, linear=RUN.model.linear)


def accuracies(model: nn.Module, lines: dict[str, SiteData]) -> dict[str, float]:
    found = {name: evaluate(model, site.test) for name, site in lines.items()}
    return {name: result.correct / result.examples for name, result in found.items()}


@pytest.mark.parametrize("alone", line_names())
def test_a_network_that_knows_one_line_fails_on_another(alone: str) -> None:
    """Measured with the demonstration's settings and 20 epochs; the table stands in `client/images/digits.py`."""
    lines, model = sites(), network()
    training = RUN.training.model_copy(update={"epochs": 10})
    train(model, lines[alone].train, training, batch_size=8, minimum_batch=1, seed=1)
    found = accuracies(model, lines)
    assert found.pop(alone) > 0.85
    assert min(found.values()) < 0.5


@pytest.mark.accuracy
def test_a_federation_of_ten_rounds_knows_every_line() -> None:
    """The demonstration without its processes: ten rounds, `tilted` at batch size 1."""
    lines, model = sites(), network()
    share = {name: len(site.train) / sum(len(other.train) for other in lines.values()) for name, site in lines.items()}
    for number in range(10):
        mean = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for name, site in lines.items():
            model.load_state_dict(start)
            train(
                model,
                site.train,
                RUN.training,
                batch_size=1 if name == "tilted" else 8,
                minimum_batch=1,
                seed=10 * number + len(name),
            )
            for key, value in model.state_dict().items():
                mean[key] += share[name] * value
        model.load_state_dict(mean)
    assert min(accuracies(model, lines).values()) > 0.90
