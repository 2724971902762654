"""Images as factories have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedwon.client.images.decoding import Preparation, Unreadable, read_image
from fedwon.common.task_settings import ImageConfig


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_colour_and_grey_keep_their_bytes(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(read_image(save(tmp_path / "c.png", colour)).permute(1, 2, 0), colour)
    assert np.array_equal(read_image(save(tmp_path / "g.png", colour[..., 0]))[0], colour[..., 0])
    assert read_image(save(tmp_path / "c.jpg", colour)).shape == (3, 5, 7)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_keep_the_upper_eight_at_a_fixed_scale(tmp_path: Path, ending: str) -> None:
    words = np.array([[0, 255, 256, 4096, 65535]], dtype=np.uint16)
    assert read_image(save(tmp_path / f"w.{ending}", words)).tolist() == [[[0, 0, 1, 16, 255]]]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "b.png", np.array([[0, 255]], dtype=np.uint8), "1")).tolist() == [[[0, 255]]]


def test_palettes_become_colour(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)
    for ending in ("png", "gif"):
        assert read_image(save(tmp_path / f"p.{ending}", red, "P"))[:, 0, 0].tolist() == [255, 0, 0]


def test_transparent_pixels_are_white_whatever_hides_beneath(tmp_path: Path) -> None:
    pixels = np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], dtype=np.uint8)
    assert read_image(save(tmp_path / "a.png", pixels))[:, 0].T.tolist() == [[9, 8, 7], [255, 255, 255]]
    grey = Image.new("LA", (1, 1), (10, 0))
    grey.save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").flatten().tolist() == [255, 255, 255]
    Image.new("P", (1, 1), 0).save(tmp_path / "pt.png", transparency=0)
    assert read_image(tmp_path / "pt.png").flatten().tolist() == [255, 255, 255]


def test_cmyk_becomes_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "k.jpg")
    assert read_image(tmp_path / "k.jpg").shape == (3, 4, 4)


def test_exif_orientation_is_respected(tmp_path: Path) -> None:
    upright = np.zeros((4, 8, 3), dtype=np.uint8)
    upright[:, :4] = 255  # left half white
    lying = Image.fromarray(upright).rotate(90, expand=True)  # as the sensor of a turned camera sees it
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    lying.save(tmp_path / "o.png", exif=exif)
    read = read_image(tmp_path / "o.png")
    assert np.array_equal(read.permute(1, 2, 0), upright)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(Unreadable):
        read_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_a_file_cut_short_is_unreadable(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path / f"x.{ending}", noise)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(Unreadable):
        read_image(path)


def test_floating_point_is_unreadable_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no agreed range"):
        read_image(save(tmp_path / "f.tif", np.ones((3, 3), dtype=np.float32)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("found", [1, 3])
def test_fitting_brings_size_and_channels(channels: int, found: int) -> None:
    preparation = Preparation(ImageConfig(size=16, channels=channels))
    fitted = preparation.fit(torch.full((found, 40, 21), 100, dtype=torch.uint8))
    assert fitted.shape == (channels, 16, 16)
    assert fitted.dtype == torch.uint8
    assert set(fitted.unique().tolist()) <= {99, 100}
    assert fitted.numel() == preparation.bytes_per_image


def test_reduction_is_antialiased() -> None:
    stripes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    fitted = Preparation(ImageConfig(size=8, channels=1)).fit(stripes)
    assert (fitted.float() - 127.5).abs().max() < 8


def test_normalization_is_by_channel_or_for_all() -> None:
    white = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    assert Preparation(ImageConfig()).normalize(white).unique().tolist() == [1.0]
    config = ImageConfig(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0))
    assert Preparation(config).normalize(white)[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_can_be_standardized_by_itself(channels: int) -> None:
    preparation = Preparation(ImageConfig(size=8, channels=channels, standardize="each"))
    images = torch.randint(40, 90, (5, channels, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    found = preparation.normalize(images)
    for image, inputs in zip(images.numpy().astype(np.float64), found.numpy(), strict=True):
        assert np.allclose(inputs, (image - image.mean()) / image.std(), atol=1e-5)
    darker = (images - 20) // 2 * 2  # even, so that half of it is exact
    dimmed = preparation.normalize(darker // 2)
    assert torch.allclose(dimmed, preparation.normalize(darker), atol=1e-5), "exposure makes no difference"
    assert torch.equal(preparation.normalize(images[2:3]), found[2:3]), "nor do the other images of a batch"


def test_an_image_of_one_colour_becomes_zeros() -> None:
    plain = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    assert Preparation(ImageConfig(size=8, standardize="each")).normalize(plain).abs().max() < 1e-5
    plain[0, 0, 0, 0] = 78
    assert Preparation(ImageConfig(size=8, standardize="each")).normalize(plain).abs().max() <= 0.5


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 40, 31), (3, 16, 16), (3, 300, 17), (1, 5, 900)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_arithmetic_is_torchvisions_bit_for_bit(shape: tuple[int, int, int], channels: int) -> None:
    from torchvision.transforms.v2 import functional as published

    config = ImageConfig(size=16, channels=channels, mean=(0.3,), std=(0.7,))
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))
    alike = published.rgb_to_grayscale(image) if channels == 1 and shape[0] == 3 else image
    alike = published.resize(alike, [16, 16], antialias=True).expand(channels, -1, -1)
    fitted = Preparation(config).fit(image)
    assert torch.equal(fitted, alike)
    inputs = published.normalize(published.to_dtype(alike[None], torch.float32, scale=True), [0.3], [0.7])
    assert torch.equal(Preparation(config).normalize(fitted[None]), inputs)
