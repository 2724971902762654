""".npz files: what they may hold, and what is said about those that hold something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwon.client.images.npz import NpzSource, read_labels
from fedwon.common.errors import DataError, DataMissing
from tests.client.site_kit import open_at, task_of, write_npz

IMAGES = np.zeros((4, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1])


def test_integer_labels_are_named_by_their_number(tmp_path: Path) -> None:
    assert read_labels(write_npz(tmp_path / "x.npz", IMAGES, np.array([3, 0, 10, 3]))) == ["3", "0", "10", "3"]


def test_names_come_from_classes_or_from_the_labels(tmp_path: Path) -> None:
    named = write_npz(tmp_path / "x.npz", IMAGES, LABELS, classes=np.array(["good", "bad"]))
    assert read_labels(named) == ["good", "bad", "good", "bad"]
    assert read_labels(write_npz(tmp_path / "y.npz", IMAGES, np.array(["b", "a", "b", "a"]))) == ["b", "a", "b", "a"]


@pytest.mark.parametrize("shape", [(6, 9, 8, 3), (6, 9, 8, 1), (6, 9, 8)])
def test_images_of_each_layout_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = NpzSource(write_npz(tmp_path / "x.npz", images, np.arange(6) % 3))
    read = source.read(4)
    assert np.array_equal(read.permute(1, 2, 0), images[4].reshape(9, 8, -1))
    assert source.name(4) == "x.npz[4]"
    assert len(open_at(tmp_path / "x.npz", task_of(("0", "1", "2"))).train) == 3


def test_compressed_files_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    assert len(open_at(tmp_path / "x.npz", task_of(("0", "1"))).train) == 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES}, "no array `labels`"),
        ({"labels": LABELS}, r"no array `images` \(it has: labels\)"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "must be uint8 .* found float32 4 x 8 x 8 x 3"),
        ({"images": IMAGES[0], "labels": LABELS}, "3 images and 4|8 images and 4"),
        ({"images": IMAGES.reshape(4, -1), "labels": LABELS}, "N x H x W x C"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "N x H x W x C"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "is empty"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "4 images and 3 labels"),
        ({"images": IMAGES, "labels": LABELS.astype(np.float64)}, "N integers or names, found float64"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "N integers or names"),
        ({"images": IMAGES, "labels": LABELS - 1}, "must not be negative, found -1"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a"])}, "label 1 has no name"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array([1, 2])}, "list of names"),
        ({"images": IMAGES, "labels": np.array(["a", None, "b", "a"], dtype=object)}, "labels` cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        read_labels(tmp_path / "x.npz")
    assert "x.npz" in caught.value.message
    assert caught.value.hint


def test_channels_that_stand_second_get_their_own_hint(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_labels(write_npz(tmp_path / "x.npz", IMAGES.transpose(0, 3, 1, 2), LABELS))
    assert "transpose(0, 2, 3, 1)" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 50])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz cannot be read as \.npz"):
        read_labels(tmp_path / "x.npz")


def test_a_damaged_image_array_is_an_error_with_the_file_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 30, 30, 3), dtype=np.uint8)
    path = write_npz(tmp_path / "x.npz", noise)
    content = bytearray(path.read_bytes())
    content[5000:5100] = b"\0" * 100
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: `images` cannot be read"):
        open_at(path, task_of(("0", "1", "2")))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no .*x\.npz"):
        open_at(tmp_path / "x.npz")
