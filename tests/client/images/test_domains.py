"""Folders of domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwon.client.images.data import survey
from fedwon.client.images.domains import discover
from fedwon.common.errors import DataError, DataMissing
from fedwon.common.surveys import images_in
from tests.client.site_kit import open_at, task_of, write_classes, write_npz


def test_folders_files_and_pairs(tmp_path: Path) -> None:
    write_classes(tmp_path / "webcam", {"a": 2})
    write_classes(tmp_path / "dslr" / "train", {"a": 2})
    write_npz(tmp_path / "usps.npz")
    write_npz(tmp_path / "mnist_train.npz")
    write_npz(tmp_path / "mnist_test.npz")
    write_npz(tmp_path / "svhn_train.npz")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "logs").mkdir()
    found = discover(tmp_path)
    assert list(found) == ["dslr", "mnist", "svhn", "usps", "webcam"]
    assert Path(found["mnist"].path).name == "mnist_train.npz"
    assert Path(found["mnist"].test or "").name == "mnist_test.npz"
    assert found["svhn"].test is None
    assert found["usps"].test is None
    assert all(Path(data.path).is_absolute() for data in found.values())
    for data in found.values():
        assert images_in(survey(data, Path("/nowhere")), ("train",)) > 0


def test_the_built_in_lines() -> None:
    for named in ("digits", Path("digits")):
        found = discover(named)
        assert {name: data.path for name, data in found.items()} == {
            "backlight": "digits:backlight",
            "metal": "digits:metal",
            "paper": "digits:paper",
            "tilted": "digits:tilted",
        }
    assert list(discover()) == list(found)


def test_some_domains_only() -> None:
    assert list(discover("digits", only=("tilted", "metal"))) == ["metal", "tilted"]
    assert len(discover("digits", only=None)) == 4
    with pytest.raises(DataMissing, match="no domain `meta`") as caught:
        discover("digits", only=["meta"])
    assert "backlight, metal, paper, tilted" in caught.value.hint


def test_no_folder_and_no_domain(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no domain") as caught:
        discover(tmp_path)
    assert "X_train.npz" in caught.value.hint


@pytest.mark.parametrize("below", ["", "train"])
def test_the_data_of_one_site_is_no_folder_of_domains(tmp_path: Path, below: str) -> None:
    write_classes(tmp_path / "line1" / below, {"a": 2, "b": 2})
    with pytest.raises(DataError, match="data of one site") as caught:
        discover(tmp_path / "line1")
    assert str(tmp_path) in caught.value.hint


def test_names_that_stand_for_two_domains(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz")
    write_npz(tmp_path / "x_train.npz")
    with pytest.raises(DataError, match=r"both x\.npz and x_train\.npz"):
        discover(tmp_path)
    (tmp_path / "x_train.npz").unlink()
    write_classes(tmp_path / "x", {"a": 2})
    with pytest.raises(DataError, match="`x` as a folder and as a file"):
        discover(tmp_path)


def test_a_test_file_without_its_training_file(tmp_path: Path) -> None:
    write_npz(tmp_path / "x_test.npz")
    with pytest.raises(DataError, match=r"no x_train\.npz beside it"):
        discover(tmp_path)


@pytest.mark.data
def test_the_image_sets_at_hand(image_sets: Path) -> None:
    assert list(discover(image_sets / "office_caltech_10")) == ["amazon", "caltech", "dslr", "webcam"]
    assert list(discover(image_sets / "magnetic_tile")) == [f"exp{number}" for number in range(1, 7)]
    digits = discover(image_sets / "digits_five", only=["usps"])["usps"]
    site = open_at(digits.path, task_of(tuple("0123456789"), images={"max_train": 743}), test=digits.test)
    assert (len(site.train), len(site.validation), len(site.test or ())) == (743, 1166, 1606)
    tiles = discover(image_sets / "magnetic_tile")["exp1"]
    classes = ("blowhole", "break", "crack", "fray", "free", "uneven")
    site = open_at(tiles.path, task_of(classes, images={"size": 32, "channels": 1}))
    assert len(site.train) + len(site.validation) == 178
    assert site.notes.corrupt == ()
