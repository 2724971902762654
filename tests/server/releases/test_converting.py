"""`fedwon-server convert`: from a weights file to a file without normalization, and every way to get it wrong."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from benchmarks.convert import with_statistics
from fedwon.common.arrays import read_header
from fedwon.common.errors import BrokenFile, ConfigError, ModelMismatch, NotConvertible
from fedwon.models import is_normalization_free, normalization_layers
from fedwon.models.convert import largest_difference
from fedwon.server.cli import app
from fedwon.server.releases.converting import MANIFEST, build, convert_file, read_converted

NAME = "torchvision:resnet18"


@pytest.fixture(autouse=True)
def _own_random_numbers():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def original():
    return with_statistics(torchvision.models.resnet18(num_classes=7), torch.randn(4, 3, 64, 64))


@pytest.fixture
def weights(original, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(original.state_dict(), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_the_command(weights, original, tmp_path):
    out = tmp_path / "free.safetensors"
    done = run("--architecture", NAME, "--weights", weights, "--out", out)
    assert done.exit_code == 0, done.output
    assert "20 absorbed into the convolution before, exactly." in done.output
    assert f"wrote {out}" in done.output
    described = json.loads(read_header(out)[1][MANIFEST])
    assert (described["architecture"], described["classes"]) == (NAME, 7)
    free = read_converted(out)
    images = torch.randn(2, 3, 64, 64)
    assert largest_difference(original, free, images) < 1e-4
    assert normalization_layers(free) == []
    assert is_normalization_free(free, images) is True
    assert free.training


def test_explain_writes_nothing(tmp_path):
    done = run("--architecture", "torchvision:convnext_tiny", "--explain")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "23 can only be approximated, with constants measured on example images."
    assert lines[1].startswith("features.0.1 (LayerNorm2d after Conv2d features.0.0): not exact")
    assert len(lines) == 24


def test_both_files_are_needed(weights):
    assert run("--architecture", NAME, "--weights", weights).exit_code == 2


def test_other_classes_get_a_new_final_layer(weights, tmp_path):
    done = convert_file(NAME, weights, tmp_path / "free.safetensors", classes=3)
    assert done.new == ("fc.weight", "fc.bias")
    free = read_converted(tmp_path / "free.safetensors")
    assert free.fc.out_features == 3
    assert torch.equal(free.fc.weight, build(NAME, 3).fc.weight)
    assert convert_file(NAME, weights, tmp_path / "same.safetensors", classes=7).new == ()


def test_files_without_counters_and_in_half_precision(weights, original, tmp_path):
    state = {name: value for name, value in load_file(weights).items() if "num_batches" not in name}
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "half.safetensors")
    done = convert_file(NAME, tmp_path / "half.safetensors", tmp_path / "free.safetensors")
    assert done.difference < 1e-4
    assert largest_difference(original, read_converted(done.blob.path), torch.randn(2, 3, 64, 64)) < 0.05


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickle_is_not_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save({}, path)
    with pytest.raises(BrokenFile, match="looks like a pickle") as caught:
        convert_file(NAME, path, tmp_path / "free.safetensors")
    assert "weights_only=True" in caught.value.hint
    assert "save_file" in caught.value.hint
    renamed = path.rename(tmp_path / "model.safetensors")
    with pytest.raises(BrokenFile, match="not a whole safetensors file"):
        convert_file(NAME, renamed, tmp_path / "free.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("torchvision:resnt18", "`torchvision:resnet18`"), ("resnet18", "`torchvision:resnet18`"), ("timm:x", "resnet18")],
)
def test_an_unknown_architecture(name, hint, tmp_path):
    with pytest.raises(ConfigError, match="no architecture") as caught:
        convert_file(name, tmp_path / "missing.safetensors", tmp_path / "free.safetensors")
    assert hint in caught.value.hint


def test_layer_norm_is_refused(tmp_path):
    weights, out = tmp_path / "model.safetensors", tmp_path / "free.safetensors"
    save_file(torchvision.models.convnext_tiny(num_classes=3).state_dict(), weights)
    with pytest.raises(NotConvertible, match=r"23 of its layers \(LayerNorm2d, LayerNorm\)"):
        convert_file("torchvision:convnext_tiny", weights, out)
    assert not out.exists()


def test_weights_of_another_network(weights, tmp_path):
    with pytest.raises(ModelMismatch, match=r"missing layer1\.0\.conv3\.weight"):
        convert_file("torchvision:resnet50", weights, tmp_path / "free.safetensors")
    with pytest.raises(ModelMismatch, match=r"no `classifier\.1\.weight`"):
        convert_file("torchvision:efficientnet_b0", weights, tmp_path / "free.safetensors")


def test_the_original_is_not_overwritten(weights, tmp_path):
    with pytest.raises(ConfigError, match="is the file to be converted"):
        convert_file(NAME, weights, tmp_path / "." / "model.safetensors")


@pytest.mark.parametrize("text", [None, "no json", "[]", '{"format": 2}'])
def test_a_file_that_is_no_converted_one(weights, tmp_path, text):
    path = tmp_path / "other.safetensors"
    save_file(load_file(weights), path, metadata=None if text is None else {MANIFEST: text})
    with pytest.raises((BrokenFile, ConfigError)):
        read_converted(path)
