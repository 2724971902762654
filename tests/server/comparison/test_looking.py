"""What is read of the lines, what cannot be read, and in which order."""

import numpy as np
import pytest
from PIL import Image

from fedwon.client.images.domains import discover
from fedwon.common.errors import DataMissing
from fedwon.common.task_settings import ImageConfig
from fedwon.server.comparison import looking
from fedwon.server.comparison.looking import identities, look, suggest_images
from tests.server.comparison.lines_kit import make_line, make_lines

IMAGES = ImageConfig(size=16, channels=1)


def test_everything_is_counted_and_what_is_broken_is_named(tmp_path):
    root = make_lines(tmp_path / "lines", lines=2, count=5)
    broken = root / "line-0" / "good" / "cut.png"
    broken.write_bytes((root / "line-0" / "good" / "000.png").read_bytes()[:40])
    found = look(discover(root), tmp_path, IMAGES, seconds=60)
    line = found.lines["line-0"]
    assert (line.listed.total(), len(line), len(line.unreadable)) == (11, 10, 1)
    assert line.unreadable[0][0] == "good/cut.png"
    assert line.grey == [True] * 10
    assert line.sizes == [(16, 16)] * 10
    assert found.complete


def test_the_same_pixels_have_the_same_digest_whatever_the_file(tmp_path):
    root = make_lines(tmp_path / "lines", lines=2, count=3)
    image = Image.open(root / "line-0" / "good" / "000.png")
    image.save(root / "line-1" / "scratch" / "other.bmp")
    lines = look(discover(root), tmp_path, IMAGES, seconds=60).lines
    assert len(set(lines["line-0"].digests) & set(lines["line-1"].digests)) == 1


def test_when_time_runs_out_all_lines_have_come_equally_far(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "LEAST", 2)
    root = make_lines(tmp_path / "lines", lines=3, count=10)
    ticks = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(looking.time, "monotonic", lambda: float(next(ticks)))
    found = look(discover(root), tmp_path, IMAGES, seconds=6)
    (read,) = {len(line) for line in found.lines.values()}
    assert 2 <= read < 20
    assert not found.complete
    for line in found.lines.values():
        assert abs(line.classes.count("good") - line.classes.count("scratch")) <= 1, "a fair draw"


def test_no_more_than_the_most_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "MOST", {"train": 4, "test": 4})
    root = make_lines(tmp_path / "lines", lines=2, count=6)
    found = look(discover(root), tmp_path, IMAGES, seconds=60)
    assert [len(line) for line in found.lines.values()] == [4, 4]
    assert not found.complete


@pytest.mark.parametrize(("mode", "side", "expected"), [("L", 30, (28, 1)), ("RGB", 200, (48, 3)), ("L", 9, (16, 1))])
def test_size_and_channels_follow_from_the_images(tmp_path, mode, side, expected):
    for line in ("a", "b"):
        for kind in ("x", "y"):
            (tmp_path / line / kind).mkdir(parents=True)
            Image.new(mode, (side, side + 5)).save(tmp_path / line / kind / "1.png")
    images = suggest_images(discover(tmp_path), tmp_path)
    assert (images.size, images.channels) == expected


def test_a_line_is_another_when_a_file_comes(tmp_path):
    root = make_lines(tmp_path / "lines", lines=2, count=3)
    before = identities(discover(root), tmp_path)
    make_line(root / "line-1", 10, 4)
    after = identities(discover(root), tmp_path)
    assert before["line-0"] == after["line-0"]
    assert before["line-1"] != after["line-1"]


def test_no_such_folder(tmp_path):
    with pytest.raises(DataMissing):
        discover(tmp_path / "nowhere")
