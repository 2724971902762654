"""The kept checkpoints of all methods on a folder that none of them has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.paper.evaluating import evaluate_stored
from fedwon.common.methods import METHODS

EACH = 4
"""Images a class."""
CLASSES = 10
OWN_LAYERS = {"fedbn", "silobn", "standalone"}
ENSEMBLE = "the mean of 5 sites' models"
LEAST = {"envelopes": 24, "posters": 14}
"""Images that each method must get right, where 4 would be guessing: on those tried here the worst had 32 and 22."""


def few(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each class of an archive."""
    with np.load(path) as archive:
        images, labels = archive["images"], archive["labels"]
    rows = np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in range(CLASSES)])
    return images[rows], labels[rows]


@pytest.fixture(scope="module")
def unseen(image_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains with names that no run knows: one of image files, one an archive."""
    source = image_sets / "digits_five"
    if not source.is_dir():
        pytest.skip(f"there is no {source}")
    folder = tmp_path_factory.mktemp("unseen")
    for number, (pixels, label) in enumerate(zip(*few(source / "usps_test.npz"), strict=True)):
        path = folder / "envelopes" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, :, 0]).save(path)
    images, labels = few(source / "mnist_m_test.npz")
    np.savez(folder / "posters.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="module")
def scores(unseen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict]]:
    """By method and domain; nothing but what the repository keeps is scored."""
    found = evaluate_stored(str(unseen), ["digits_small"], tmp_path_factory.mktemp("no-runs"))["digits_small"]
    return {run.split("-b32-")[0]: domains for run, domains in found.items()}


@pytest.mark.data
def test_a_checkpoint_of_every_method_is_kept(scores):
    assert set(scores) == set(METHODS)


@pytest.mark.data
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_scored_on_domains_it_has_never_seen(method, scores):
    assert set(scores[method]) == {"envelopes", "posters"}
    for name, score in scores[method].items():
        assert set(score) == {"correct", "examples", "accuracy", "served_by"}, (name, score)
        assert score["examples"] == EACH * CLASSES
        assert LEAST[name] <= score["correct"] <= score["examples"]
        assert score["accuracy"] == score["correct"] / score["examples"]
        assert score["served_by"] == (ENSEMBLE if method in OWN_LAYERS else "the global model")
