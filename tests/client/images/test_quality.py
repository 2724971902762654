"""What is wrong with a site's images, found before they are trained on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fedwon.client.config import DataConfig
from fedwon.client.images.listing import list_site
from fedwon.client.images.quality import look_over, some


@pytest.fixture
def folder(tmp_path):
    """Twelve different images of 20 x 16 in two classes, with a validation part."""
    rng = np.random.default_rng(0)
    for number in range(12):
        part, name = ("val" if number % 4 == 3 else "train"), ("good" if number % 2 else "bad")
        place = tmp_path / part / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(place / f"{number:02}.png")
    (tmp_path / "val" / "bad").mkdir(exist_ok=True)
    return tmp_path


def look(folder, **options):
    return look_over(list_site(DataConfig(path=str(folder)), folder), **options)


def test_good_images_are_not_remarked_on(folder):
    found = look(folder)
    assert (found.looked, found.total, found.usual) == (12, 12, (20, 16))
    lists = (found.unreadable, found.unread_classes, found.again, found.leaked, found.contradictory, found.odd)
    assert lists == ([],) * 6


def test_the_same_image_again(folder):
    image = (folder / "train" / "bad" / "00.png").read_bytes()
    (folder / "train" / "bad" / "copy.png").write_bytes(image)
    (folder / "train" / "good" / "copy.png").write_bytes(image)
    (folder / "val" / "bad" / "copy.png").write_bytes(image)
    with Image.open(folder / "train" / "good" / "01.png") as other:
        other.save(folder / "train" / "good" / "again.bmp")  # another file of the same pixels
    found = look(folder)
    assert found.again == ["train/bad/copy.png = train/bad/00.png", "train/good/again.bmp = train/good/01.png"]
    assert found.contradictory == ["train/good/copy.png = train/bad/00.png"]
    assert found.leaked == ["val/bad/copy.png = train/bad/00.png"]


def test_sizes_far_from_the_usual(folder):
    place = folder / "train" / "good"
    for name, size in (("long", (200, 16)), ("tiny", (2, 2)), ("double", (40, 32)), ("tall", (20, 70))):
        Image.new("RGB", size, (1, 2, 3)).save(place / f"{name}.png")
    names = ["train/good/long.png (200 x 16)", "train/good/tall.png (20 x 70)", "train/good/tiny.png (2 x 2)"]
    assert look(folder).odd == names


def test_what_cannot_be_read_is_named_and_a_class_of_nothing_else_too(folder):
    for path in (folder / "train" / "bad").iterdir():
        path.write_bytes(b"torn")
    (folder / "train" / "good" / "01.png").write_bytes(b"")
    found = look(folder)
    assert len(found.unreadable) == 7
    assert found.unreadable[0].startswith("train/bad/00.png (cannot identify")
    assert found.unread_classes == ["bad"]


def test_many_images_are_looked_at_here_and_there(folder):
    found = look(folder, most=3)
    assert (found.looked, found.total) == (6, 12)


def test_the_first_few_are_named():
    assert some(["a", "b"]) == "a, b"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
