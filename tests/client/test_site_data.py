"""A site's data in each of its forms: found, counted, split, agreed on by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedwon.client.config import DataConfig
from fedwon.client.images.data import survey
from fedwon.client.images.listing import Listed, Wanted
from fedwon.client.images.opening import draw, split
from fedwon.client.images.prefetch import THREAD_NAME
from fedwon.common.errors import ClassMismatch, DataError, DataMissing, EmptyClass
from fedwon.common.surveys import PARTS, images_in
from tests.client.site_kit import open_at, pixels_of, task_of, write_classes, write_image, write_npz

ABC = {"a": 10, "b": 5, "c": 2}


def class_counts(images: object) -> dict[str, int]:
    labels = images.labels.bincount(minlength=len(images.classes)).tolist()
    return dict(zip(images.classes, labels, strict=True))


# --- forms


def test_a_folder_of_classes_is_split_class_by_class(tmp_path: Path) -> None:
    site = open_at(write_classes(tmp_path, ABC))
    assert class_counts(site.train) == {"a": 8, "b": 4, "c": 1}
    assert class_counts(site.validation) == {"a": 2, "b": 1, "c": 1}
    assert site.test is None
    assert site.notes.corrupt == ()


def test_given_parts_are_used_as_they_are(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ABC)
    write_classes(tmp_path / "val", {"a": 3, "b": 0})
    write_classes(tmp_path / "test", {"c": 4})
    site = open_at(tmp_path)
    assert class_counts(site.train) == ABC
    assert class_counts(site.validation) == {"a": 3, "b": 0, "c": 0}
    assert class_counts(site.test) == {"a": 0, "b": 0, "c": 4}


def test_parts_without_validation_are_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ABC)
    site = open_at(tmp_path)
    assert (len(site.train), len(site.validation)) == (13, 4)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    site = open_at(write_classes(tmp_path, {"train": 3, "plane": 2}), task_of(("plane", "train")))
    assert class_counts(site.train) == {"plane": 1, "train": 2}


def test_an_npz_file(tmp_path: Path) -> None:
    site = open_at(write_npz(tmp_path / "x.npz"), task_of(("0", "1", "2")))
    assert class_counts(site.train) == {"0": 3, "1": 3, "2": 3}


def test_a_built_in_line() -> None:
    site = open_at("digits:paper", task_of(tuple("0123456789"), images={"size": 28}))
    assert (len(site.train), len(site.validation), len(site.test)) == (294, 43, 113)


def test_relative_paths_start_at_the_base(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ABC)
    assert len(open_at("images", base=tmp_path).train) == 13


def test_test_images_of_their_own(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ABC)
    write_npz(tmp_path / "x.npz", labels=np.array(["c", "b", "b"]))
    site = open_at("images", base=tmp_path, test="x.npz")
    assert class_counts(site.test) == {"a": 0, "b": 2, "c": 1}
    write_classes(tmp_path / "more", {"a": 2})
    assert class_counts(open_at("images", base=tmp_path, test="more").test) == {"a": 2, "b": 0, "c": 0}


def test_test_images_must_not_be_the_training_images(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ABC)
    with pytest.raises(DataError, match="tested on what it was trained on"):
        open_at("images", base=tmp_path, test="./images")


# --- what is wrong


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="nowhere"):
        open_at("nowhere", base=tmp_path)
    with pytest.raises(DataMissing, match="no line `x`"):
        open_at("digits:x")


def test_neither_folder_nor_npz(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match="neither a folder nor"):
        open_at(tmp_path / "x.csv")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    write_classes(tmp_path, {**ABC, "d": 0})
    (tmp_path / "d" / "notes.txt").write_text("no image")
    with pytest.raises(EmptyClass, match=f"class folder {tmp_path}/d holds no image"):
        open_at(tmp_path)


def test_a_folder_of_domains_gets_a_hint(tmp_path: Path) -> None:
    write_classes(tmp_path / "line1", ABC)
    with pytest.raises(EmptyClass, match="only folders such as `a`") as caught:
        open_at(tmp_path)
    assert "several sites" in caught.value.hint


def test_images_without_class_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png")
    with pytest.raises(DataError, match="must lie in sub-folders"):
        open_at(tmp_path)


def test_hidden_and_foreign_files_are_no_images(tmp_path: Path) -> None:
    write_classes(tmp_path, ABC)
    for name in ("a/._000.png", "a/Thumbs.db", "a/.DS_Store", ".cache/x/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    site = open_at(tmp_path)
    assert len(site.train) == 13
    assert site.notes.corrupt == ()


def test_corrupt_images_are_left_out_counted_and_named(tmp_path: Path) -> None:
    write_classes(tmp_path, ABC)
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    whole = (tmp_path / "b" / "000.png").read_bytes()
    (tmp_path / "b" / "short.png").write_bytes(whole[: len(whole) // 2])
    site = open_at(tmp_path)
    assert sorted(image.path for image in site.notes.corrupt) == ["a/bad.png", "b/short.png"]
    assert all(image.reason for image in site.notes.corrupt)
    assert len(site.train) + len(site.validation) == 17
    assert pixels_of(site.train).shape == (len(site.train), 3, 16, 16)


def test_a_class_that_is_all_corrupt_is_empty(tmp_path: Path) -> None:
    write_classes(tmp_path, ABC)
    for path in (tmp_path / "c").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(EmptyClass, match=r"class `c` to train on can be read .*c/00"):
        open_at(tmp_path)


# --- agreement by name


def test_labels_are_positions_in_the_servers_list_not_in_the_folder(tmp_path: Path) -> None:
    for name, grey in (("a", 10), ("c", 200)):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("L", (8, 8), grey).save(tmp_path / name / f"{number}.png")
    site = open_at(tmp_path, task_of(("c", "b", "a")))
    assert site.notes.missing == ("b",)
    grey = ((pixels_of(site.train).mean(dim=(1, 2, 3)) / 2 + 0.5) * 255).round().int().tolist()
    assert {*zip(site.train.labels.tolist(), grey, strict=True)} == {(2, 10), (0, 200)}


def test_a_missing_class_can_be_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(ClassMismatch, match="no image to train on of `c`"):
        open_at(tmp_path, task_of(images={"missing_classes": "refuse"}))


def test_an_unknown_class_is_refused_with_the_name_that_was_meant(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "Scratch": 3})
    with pytest.raises(ClassMismatch, match=r"`Scratch` \(images: 3, did you mean `scratches`\?\)"):
        open_at(tmp_path, task_of(("a", "scratches")))


def test_an_unknown_class_can_be_skipped(tmp_path: Path) -> None:
    write_classes(tmp_path, {**ABC, "other": 3})
    site = open_at(tmp_path, task_of(images={"unknown_classes": "skip"}))
    assert site.notes.skipped == {"other": 3}
    assert (len(site.train), len(site.validation)) == (13, 4)


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    write_classes(tmp_path, {"x": 3})
    with pytest.raises(DataError, match="no image to train on"):
        open_at(tmp_path, task_of(images={"unknown_classes": "skip"}))


def test_names_are_the_same_however_they_are_spelled_in_unicode(tmp_path: Path) -> None:
    write_classes(tmp_path, {"u\N{COMBINING DIAERESIS}ber": 3, "gut": 3})
    site = open_at(tmp_path, task_of(("gut", "\N{LATIN SMALL LETTER U WITH DIAERESIS}ber")))
    assert class_counts(site.train) == {"gut": 2, "über": 2}


# --- splitting and drawing


def listed(counts: dict[str, int], order: int = 0) -> tuple[list[Wanted], Listed]:
    names = [(name, f"{name}{number}") for name, images in sorted(counts.items()) for number in range(images)]
    np.random.default_rng(order).shuffle(names)
    classes = sorted(counts)
    wanted = [Wanted(row, classes.index(name)) for row, (name, _) in enumerate(names)]
    return wanted, Listed(tuple(name for name, _ in names), tuple(key for _, key in names), source=None)


@given(
    counts=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_split_is_whole_stratified_and_the_same_in_any_order(
    counts: dict[str, int], fraction: float, seed: int
) -> None:
    chosen = []
    for order in (0, 1):
        wanted, names = listed(counts, order)
        train, validation = split(wanted, names, fraction, seed)
        assert sorted(train + validation) == sorted(wanted)
        chosen.append({names.keys[image.row] for image in validation})
    assert chosen[0] == chosen[1]
    for name, images in counts.items():
        kept = sum(key.startswith(name) for key in chosen[0])
        assert kept == (0 if images == 1 else min(max(round(fraction * images), 1), images - 1))


def test_another_seed_is_another_split() -> None:
    wanted, names = listed({"a": 40})
    assert split(wanted, names, 0.5, 1) != split(wanted, names, 0.5, 2)


@given(
    counts=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1),
    most=st.integers(1, 120),
    seed=st.integers(0, 2**31),
)
def test_a_draw_is_in_proportion_and_the_same_in_any_order(counts: dict[str, int], most: int, seed: int) -> None:
    drawn = []
    for order in (0, 1):
        wanted, names = listed(counts, order)
        drawn.append({names.keys[image.row] for image in draw(wanted, names, most, seed)})
    assert drawn[0] == drawn[1]
    total = sum(counts.values())
    assert len(drawn[0]) == min(most, total)
    if most >= len(counts):
        for name, images in counts.items():
            kept = sum(key.startswith(name) for key in drawn[0])
            assert kept >= 1
            assert abs(kept - images * min(most / total, 1)) < len(counts) + 1


def test_max_train_leaves_validation_whole(tmp_path: Path) -> None:
    site = open_at(write_classes(tmp_path, ABC), task_of(images={"max_train": 5, "size": 16}))
    assert (len(site.train), len(site.validation)) == (5, 4)


def test_moving_the_folder_changes_nothing(tmp_path: Path) -> None:
    first, second = (open_at(write_classes(tmp_path / name, ABC)) for name in ("x", "y"))
    assert torch.equal(pixels_of(first.train), pixels_of(second.train))


# --- memory


def test_images_beyond_the_cache_are_the_same(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", labels=np.arange(3000) % 3)
    task = task_of(("0", "1", "2"), images={"size": 16})
    whole, part, none = (open_at(tmp_path / "x.npz", task, cache_mb=size) for size in (512, 1, 0))
    assert whole.train.in_memory
    assert not part.train.in_memory
    assert not none.train.in_memory
    rows = [[2399, 3, 1700], [0]]
    for site in (part, none):
        for mine, theirs in zip(site.train.batches(rows), whole.train.batches(rows), strict=True):
            assert torch.equal(mine.inputs, theirs.inputs)
            assert torch.equal(mine.labels, theirs.labels)


def test_decoding_threads_end_with_the_iterator(tmp_path: Path) -> None:
    import threading

    site = open_at(write_classes(tmp_path, ABC), cache_mb=0)
    batches = site.train.batches([[row] for row in range(13)])
    next(batches)
    assert any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


def test_an_image_that_vanishes_later_is_an_error_that_names_it(tmp_path: Path) -> None:
    site = open_at(write_classes(tmp_path, ABC), cache_mb=0)
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"b/00\d\.png could be read before"):
        list(site.train.batches([range(13)]))


# --- survey


def test_a_survey_counts_by_class_and_part(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ABC)
    write_classes(tmp_path / "val", {"a": 3})
    write_npz(tmp_path / "x.npz", labels=np.array(["c", "d"]))
    found = survey(DataConfig(path="train/..", test="x.npz"), tmp_path)
    assert list(found) == ["a", "b", "c", "d"]
    assert json.loads(json.dumps(found)) == {
        "a": {"train": 10, "validation": 3, "test": 0},
        "b": {"train": 5, "validation": 0, "test": 0},
        "c": {"train": 2, "validation": 0, "test": 1},
        "d": {"train": 0, "validation": 0, "test": 1},
    }
    assert images_in(found, ("train",)) == 17


def test_a_survey_does_not_decode(tmp_path: Path) -> None:
    write_classes(tmp_path, ABC)
    (tmp_path / "a" / "bad.png").write_bytes(b"no image")
    assert images_in(survey(DataConfig(path=str(tmp_path)), tmp_path), ("train",)) == 18


def test_a_survey_of_a_built_in_line() -> None:
    found = survey(DataConfig(path="digits:metal"), Path())
    assert list(found) == list("0123456789")
    assert [images_in(found, (part,)) for part in PARTS] == [295, 42, 112]


def test_a_survey_loads_no_torch(tmp_path: Path) -> None:
    write_classes(tmp_path / "x", ABC)
    write_npz(tmp_path / "x.npz")
    code = (
        "import sys; from pathlib import Path; from fedwon.client.config import DataConfig; "
        "from fedwon.client.images.data import survey; "
        "[survey(DataConfig(path=path), Path(sys.argv[1])) for path in ('x', 'x.npz', 'digits:paper')]; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
