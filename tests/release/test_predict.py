"""`fedwon-client predict`: what it says, in which form, and that it uses nothing that the federation did not sign."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from typer.testing import CliRunner

from fedwon.client.cli import app
from fedwon.client.images.decoding import Preparation, read_image
from fedwon.client.releases import predicting
from fedwon.client.releases.predicting import Predictor, arrivals, find_images, trusted_release
from fedwon.client.releases.shelf import STATE, Shelf
from fedwon.common.errors import BrokenFile, DataError, DataMissing, ReleaseMissing, UntrustedRelease
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.release import MANIFEST, ONNX, SIGNATURE, WEIGHTS
from tests.release.edge_box import ROOT, needed, requirements


def wanted(made, paths):
    """The trained network on the training path: the slow way that prediction must agree with."""
    task, record = read_model(made.run.model_path(2))
    preparation, network = Preparation(task.images), trained_network(task, record).eval()
    with torch.inference_mode():
        inputs = torch.stack([preparation.fit(read_image(path)) for path in paths])
        return network(preparation.normalize(inputs)).softmax(dim=1).numpy()


def invoke(made, *arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--dir", str(made.site)])


def test_it_says_what_the_trained_network_says(made):
    paths = find_images([made.images])
    found = list(Predictor(made.release).predict(paths))
    assert [prediction.path for prediction in found] == sorted(made.images.iterdir())
    shares = wanted(made, paths)
    assert np.allclose([prediction.probabilities for prediction in found], shares, atol=1e-5)
    labels = [made.release.manifest.classes[best] for best in shares.argmax(axis=1)]
    assert [prediction.label for prediction in found] == labels
    assert np.allclose([prediction.probability for prediction in found], shares.max(axis=1), atol=1e-5)


def test_forms(made, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"no image")
    shutil.copy(made.images / "part-03.png", tmp_path / "good, really.png")
    classes = list(made.release.manifest.classes)
    options = ["--release", made.release.folder]
    plain = invoke(made, tmp_path, *options)
    assert isinstance(plain.exception, DataError)
    lines = plain.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path}/good, really.png: ")
    assert lines[0].endswith("%")
    assert "torn.png: cannot be read: cannot identify image file" in lines[1]
    rows = list(csv.DictReader(io.StringIO(invoke(made, tmp_path, *options, "--csv").stdout)))
    assert list(rows[0]) == ["path", "label", "probability", *classes, "error"]
    assert rows[0]["label"] in classes
    assert float(rows[0]["probability"]) == pytest.approx(float(rows[0][rows[0]["label"]]))
    assert (rows[1]["label"], rows[1]["probability"]) == ("", "")
    found = json.loads(invoke(made, tmp_path, *options, "--json").stdout)
    assert found["release"] == made.release.manifest.name
    good, torn = found["predictions"]
    assert sum(good["probabilities"].values()) == pytest.approx(1)
    assert "cannot identify" in torn["error"]
    int8 = invoke(made, made.images / "part-03.png", *options, "--int8", "--json")
    assert int8.exit_code == 0, int8.output


def test_what_is_asked_for_must_be_there(made, tmp_path):
    with pytest.raises(DataMissing):
        find_images([tmp_path])
    with pytest.raises(DataMissing):
        find_images([tmp_path / "none.png"])
    with pytest.raises(ReleaseMissing, match="in use"):
        trusted_release(made.site, None, None)
    with pytest.raises(ReleaseMissing):
        trusted_release(made.site, tmp_path, None)
    with pytest.raises(DataMissing, match=r"ca\.pem"):
        trusted_release(tmp_path, made.release.folder, None)
    assert trusted_release(tmp_path, made.release.folder, made.site / "pki/ca.pem") == made.release
    for wrong in ([], [made.images, "--watch", made.images], [made.images, "--csv", "--json"]):
        assert invoke(made, *wrong).exit_code == 2


def test_a_watched_folder(made, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "POLL_SECONDS", 0.01)
    shutil.copy(made.images / "part-00.png", tmp_path / "first.png")
    (tmp_path / "notes.txt").write_text("no image")
    seen = []
    for looks, found in enumerate(arrivals(tmp_path), start=1):
        seen += [path.name for path in found]
        if looks == 3:
            (tmp_path / "second.png").write_bytes(b"half")
        if looks == 4:  # still being written: another size than at the last look
            shutil.copy(made.images / "part-01.png", tmp_path / "second.png")
        if looks == 8:
            shutil.copy(made.images / "part-02.png", tmp_path / "first.png")  # written anew
        if looks == 12:
            break
    assert seen == ["first.png", "second.png", "first.png"]
    shutil.rmtree(tmp_path)
    with pytest.raises(DataMissing):
        next(arrivals(tmp_path))
    assert list(arrivals(tmp_path, stop=lambda: True)) == []


def test_watching_takes_up_a_release_that_the_site_switches_to(made, tmp_path):
    shelf = Shelf(tmp_path)
    shutil.copytree(made.release.folder, shelf.place(made.release.manifest.name))
    shelf.switch(made.release.manifest.name, "1", {})
    predictor = Predictor(made.release, shelf=shelf)
    assert not predictor.outdated()
    shelf.switch("other", "2", {})
    assert predictor.outdated()


def test_the_shelf_goes_back_once_and_clears_what_is_older(tmp_path):
    shelf = Shelf(tmp_path)
    with pytest.raises(ReleaseMissing):
        shelf.go_back("0", {})
    for number in (1, 2, 3):
        shelf.place(f"r{number}").mkdir(parents=True)
        shelf.switch(f"r{number}", str(number), {"state": "in use"})
    assert sorted(path.name for path in shelf.folder.iterdir()) == [STATE, "r2", "r3"]
    shelf.switch("r3", "3", {"state": "in use"})  # the same order again
    assert (shelf.standing.in_use, shelf.standing.before) == ("r3", "r2")
    assert shelf.go_back("4", {"state": "in use"}) == "r2"
    assert (shelf.standing.in_use, shelf.standing.order) == ("r2", "4")
    assert shelf.standing.answer["release"] == "r2"
    (shelf.folder / STATE).write_text("[")
    with pytest.raises(BrokenFile):
        _ = shelf.standing


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, ONNX, WEIGHTS])
def test_a_tampered_release_is_refused_by_the_command(made, tmp_path, name):
    copy = shutil.copytree(made.release.folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 3] ^= 64
    (copy / name).write_bytes(content)
    done = invoke(made, made.images, "--release", copy)
    assert isinstance(done.exception, UntrustedRelease)
    assert done.stdout == ""


def test_a_file_that_changes_after_it_was_checked_is_not_used(made, tmp_path):
    copy = shutil.copytree(made.release.folder, tmp_path / "copy")
    opened = trusted_release(made.site, copy, None)
    content = bytearray((copy / ONNX).read_bytes())
    content[-1] ^= 1
    (copy / ONNX).write_bytes(content)
    with pytest.raises(UntrustedRelease):
        Predictor(opened)


def test_it_runs_without_torch(made, edge_box, tmp_path):
    assert "torch" not in needed()
    for package in ("torch", "flwr", "grpc", "fedwon.server"):
        assert f"No module named '{package}'" in edge_box.run("-c", f"import {package}").stderr
    Image.new("RGB", (31, 17), (200, 30, 30)).save(tmp_path / "part.png")
    options = ["--release", made.release.folder, "--dir", made.site, "--json"]
    done = edge_box.client("predict", tmp_path / "part.png", made.images, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["predictions"]
    shares = wanted(made, [tmp_path / "part.png", *sorted(made.images.iterdir())])
    assert np.allclose([list(row["probabilities"].values()) for row in found], shares, atol=1e-5)


def test_what_an_edge_box_needs_is_what_the_package_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["runtime"]]]
    assert {(r.name, r.specifier) for r in requirements()} <= {(r.name, r.specifier) for r in declared}
