"""One arithmetic for training and for a release: NumPy's gives torch's bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedwon.client.images import decoding
from fedwon.common import pixels
from fedwon.common.task_settings import ImageConfig


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    channels=st.sampled_from([1, 3]),
    size=st.integers(8, 260),
    seed=st.integers(0, 2**16),
)
def test_resizing_gives_torchs_bits(height, width, channels, size, seed):
    image = noise((height, width, channels), seed).transpose(2, 0, 1)
    assert np.array_equal(pixels.resized(image, size), decoding.resized(torch.from_numpy(image), size).numpy())


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_extremes_stay_within_bytes(value):
    plain = np.full((1, 97, 33), value, dtype=np.uint8)
    assert set(np.unique(pixels.resized(plain, 40))) == {value}


def test_grey_gives_torchs_bits_for_every_colour_of_a_grid():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, len(levels), -1)
    red, green, blue = torch.from_numpy(image).unbind(0)
    alike = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).to(torch.uint8)
    assert np.array_equal(pixels.grey(image)[0], alike.numpy())


def test_each_images_own_scale_is_its_mean_and_deviation():
    images = noise((4, 3, 16, 16))
    found = pixels.Preparation(ImageConfig(size=16, standardize="each")).normalize(images)
    scaled = torch.from_numpy(images).double() / 255
    std, mean = torch.std_mean(scaled, dim=(1, 2, 3), correction=0, keepdim=True)
    assert np.allclose(found, (scaled - mean) / std, atol=1e-6)


@pytest.mark.parametrize("standardize", ["alike", "each"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_file_becomes_the_same_inputs_in_training_and_in_a_release(tmp_path: Path, standardize, channels, ending):
    photograph = np.clip(noise((90, 130, 3), 5) * np.linspace(0, 1, 130)[:, None], 0, 255).astype(np.uint8)
    path = tmp_path / f"part.{ending}"
    Image.fromarray(photograph).save(path)
    config = ImageConfig(size=48, channels=channels, mean=(0.4,), std=(0.3,), standardize=standardize)
    trained, released = decoding.Preparation(config), pixels.Preparation(config)
    inputs = released.normalize(released.fit(pixels.read_pixels(path))[None])
    assert inputs.dtype == np.float32
    assert inputs.tobytes() == trained.normalize(trained.fit(decoding.read_image(path))[None]).numpy().tobytes()


@pytest.mark.data
def test_real_photographs_become_the_same_inputs(image_sets: Path):
    config = ImageConfig(size=64, mean=(0.5,), std=(0.25,))
    trained, released = decoding.Preparation(config), pixels.Preparation(config)
    paths = [path for ending in ("jpg", "png", "bmp") for path in sorted(image_sets.rglob(f"*.{ending}"))[:20]]
    assert paths
    for path in paths:
        inputs = released.normalize(released.fit(pixels.read_pixels(path))[None])
        alike = trained.normalize(trained.fit(decoding.read_image(path))[None]).numpy()
        assert inputs.tobytes() == alike.tobytes(), path


def test_torch_is_not_needed():
    code = "import sys, fedwon.common.pixels; print({'torch', 'flwr', 'grpc'} & {*sys.modules} or 'no')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no"


def test_a_file_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    assert pixels.read_pixels(tmp_path / "a.png").shape == (1, 3, 4)
    monkeypatch.setattr(pixels, "MOST_PIXELS", 11)
    with pytest.raises(pixels.Unreadable, match="4 x 3 pixels are more than 11"):
        pixels.read_pixels(tmp_path / "a.png")
