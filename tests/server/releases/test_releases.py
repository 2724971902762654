"""Making a release: what it holds, that it computes the same, that it is whole and signed or not there."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

from fedwon.common.arrays import open_record
from fedwon.common.errors import (
    ConfigError,
    DataError,
    DataMissing,
    FolderTaken,
    NotReleasable,
    ReleaseMissing,
    RunMissing,
    UntrustedRelease,
)
from fedwon.common.files import sha256_file
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.release import MANIFEST, ONNX, ONNX_INT8, SIGNATURE, WEIGHTS, check_signature, open_release
from fedwon.common.run_config import RunConfig
from fedwon.common.scoring import OnnxModel
from fedwon.server.auditing import trail
from fedwon.server.releases import exporting
from fedwon.server.releases.making import make_release
from fedwon.server.releases.shelves import find_release, list_releases
from fedwon.server.releases.wish import Wish
from tests.server.release_kit import commit, make_home, make_run, photographs
from tests.server.server_kit import small_run


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A home with a run of two rounds and one release of the second, with int8."""
    place = tmp_path_factory.mktemp("released")
    home = make_home(place / "server")
    run = make_run(home)
    release = make_release(home, Wish(images=photographs(place / "images"), int8=True, limit_int8=1.0))
    yield home, run, release
    home.store.close()


def test_it_says_what_it_is_and_where_it_comes_from(released):
    home, run, release = released
    manifest = release.manifest
    assert manifest.name == f"{run.id}-r0002" == release.folder.name
    assert (manifest.run, manifest.round, manifest.previous) == (run.id, 2, None)
    assert manifest.checkpoint == sha256_file(run.model_path(2))
    assert manifest.classes == run.classes
    assert manifest.preprocessing == run.config.images
    assert manifest.metrics["left"].accuracy == 0.5
    assert manifest.data == {"left": {name: {"train": 8, "validation": 2, "test": 0} for name in run.classes}}
    assert manifest.privacy == {}
    assert {"fedwon", "torch", "onnx", "onnxruntime"} <= manifest.versions.keys()
    assert manifest.parity[ONNX].images == 12
    assert manifest.parity[ONNX].same_class == 12
    assert "images of" in manifest.parity[ONNX].source
    assert {path.name for path in release.folder.iterdir()} == {MANIFEST, SIGNATURE, ONNX, ONNX_INT8, WEIGHTS}
    assert [line["subject"] for line in trail(home.store) if line["action"] == "release made"] == [manifest.name]


def test_the_exported_model_computes_what_the_trained_one_does_at_any_batch(released):
    _, run, release = released
    task, record = read_model(run.model_path(2))
    network, model = trained_network(task, record).eval(), OnnxModel(release.read(ONNX), threads=1)
    for images in (1, 5):
        inputs = torch.randn(images, 3, 8, 8)
        with torch.inference_mode():
            wanted = network(inputs).numpy()
        assert np.allclose(model.logits(inputs.numpy()), wanted, atol=1e-5)


def test_the_weights_are_folded_and_hold_no_gain(released):
    _, _, release = released
    record = open_record(release.folder / WEIGHTS)
    assert record
    assert not [name for name in record if "gain" in name]


def test_nothing_of_the_machine_is_in_the_file(released):
    _, _, release = released
    for name in (ONNX, ONNX_INT8):
        content = release.read(name)
        assert b"site-packages" not in content
        assert b".py" not in content


def test_int8_has_figures_of_its_own_and_is_smaller(released):
    _, _, release = released
    assert release.manifest.parity[ONNX_INT8].limit == 1.0
    assert release.manifest.files[ONNX_INT8].size < 0.5 * release.manifest.files[ONNX].size
    OnnxModel(release.read(ONNX_INT8), threads=1).logits(np.zeros((3, 3, 8, 8), np.float32))


def test_the_signature_can_be_checked_with_openssl(released, tmp_path):
    home, _, release = released
    key = tmp_path / "ca.pub"
    asked = ["openssl", "x509", "-in", str(home.folder / "pki/ca.pem"), "-pubkey", "-noout"]
    key.write_bytes(subprocess.run(asked, capture_output=True, check=True).stdout)
    check = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(release.folder / SIGNATURE)]
    done = subprocess.run([*check, str(release.folder / MANIFEST)], capture_output=True, text=True)
    assert done.stdout.strip() == "Verified OK"


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, ONNX, ONNX_INT8, WEIGHTS])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999999])
def test_any_changed_byte_is_refused(released, tmp_path, name, where):
    home, _, release = released
    copy = shutil.copytree(release.folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UntrustedRelease):
        open_release(copy, home.authority.pem)


@pytest.mark.parametrize("name", [SIGNATURE, ONNX, WEIGHTS])
@pytest.mark.parametrize("change", ["missing", "longer", "shorter"])
def test_missing_and_longer_files_are_refused(released, tmp_path, name, change):
    home, _, release = released
    copy = shutil.copytree(release.folder, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if change != "missing":
        (copy / name).write_bytes(content + b"0" if change == "longer" else content[:-1])
    with pytest.raises(UntrustedRelease):
        open_release(copy, home.authority.pem)


def test_another_federations_release_and_a_swapped_manifest_are_refused(released, tmp_path):
    home, _, release = released
    other = make_home(tmp_path / "other")
    with pytest.raises(UntrustedRelease, match="another federation"):
        open_release(release.folder, other.authority.pem)
    open_release(release.folder, other.authority.pem + home.authority.pem)  # while one authority replaces another
    make_run(other)
    foreign = make_release(other, Wish())
    assert "random" in foreign.manifest.parity[ONNX].source
    copy = shutil.copytree(release.folder, tmp_path / "copy")
    for file in (MANIFEST, SIGNATURE):
        shutil.copy(foreign.folder / file, copy / file)
    with pytest.raises(UntrustedRelease):
        open_release(copy, home.authority.pem)
    with pytest.raises(UntrustedRelease):  # signed by the federation's friend, files and all
        open_release(foreign.folder, home.authority.pem)
    with pytest.raises(NotReleasable, match="real images"):
        make_release(other, Wish(name="small", int8=True))
    assert not (other.folder / "releases" / "small").exists()
    other.store.close()


def test_a_certificate_is_no_manifest(released):
    home, _, release = released
    certificate = home.authority.certificate
    with pytest.raises(UntrustedRelease):
        check_signature(certificate.tbs_certificate_bytes, certificate.signature, home.authority.pem, "it")
    check_signature(
        *(release.folder.joinpath(name).read_bytes() for name in (MANIFEST, SIGNATURE)), home.authority.pem, "it"
    )


def test_a_model_that_computes_something_else_is_not_released(released, monkeypatch, tmp_path):
    home, _, release = released
    exported = exporting.to_onnx

    def wrong(model, *arguments):
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 0.1
        return exported(model, *arguments)

    monkeypatch.setattr(exporting, "to_onnx", wrong)
    with pytest.raises(NotReleasable, match="computes something else"):
        make_release(home, Wish(name="wrong", images=photographs(tmp_path / "images")))
    assert [path.name for path in release.folder.parent.iterdir()] == [release.manifest.name]


def test_rounds_and_names(released):
    home, run, release = released
    with pytest.raises(FolderTaken):
        make_release(home, Wish(run.id, "best"))  # round 2 is the best one, and released already
    with pytest.raises(RunMissing):
        make_release(home, Wish(run.id, 9))
    with pytest.raises(RunMissing):
        make_release(home, Wish("nobody"))
    with pytest.raises(ConfigError):
        make_release(home, Wish(name="../up"))
    with pytest.raises(DataMissing):
        make_release(home, Wish(name="x", images=home.folder / "none"))
    with pytest.raises(DataError):
        make_release(home, Wish(name="x", images=home.folder / "pki"))
    with pytest.raises(ReleaseMissing, match=release.manifest.name):
        find_release(home, "none")
    assert find_release(home, release.manifest.name) == release


def test_it_says_what_its_run_cost_in_privacy(tmp_path):
    home = make_home(tmp_path / "server")
    plain = small_run().model_dump(mode="json", exclude={"aggregation", "admission"})
    config = RunConfig.model_validate({**plain, "privacy": {"sites": {"noise": 2.0}}})
    run = make_run(home, config=config)
    run.commit(3, run.last()[1], seconds=1.0, sites=["left"], releases={"left": 3})
    manifest = make_release(home, Wish(images=photographs(tmp_path / "images", 3))).manifest
    assert manifest.privacy["sites"]["by_site"] == {"left": config.privacy.sites.epsilon(3)}
    assert manifest.privacy["sites"]["noise"] == 2.0
    home.store.close()


def test_the_best_round_and_the_release_before(tmp_path):
    home = make_home(tmp_path / "server")
    run = make_run(home, rounds=2)
    commit(run, 3, correct=0)
    best = make_release(home, Wish(round="best"))
    assert best.manifest.round == 2
    last = make_release(home, Wish())
    assert (last.manifest.round, last.manifest.previous) == (3, best.manifest.name)
    assert [manifest.round for manifest in list_releases(home)] == [2, 3]
    (last.folder / SIGNATURE).write_bytes(b"0")
    assert [manifest.round for manifest in list_releases(home)] == [2]
    assert json.loads((best.folder / MANIFEST).read_text())["configuration"] == best.manifest.configuration
    home.store.close()


@pytest.mark.parametrize("method", ["fedbn", "silobn", "standalone"])
def test_a_network_that_is_not_whole_at_the_server_is_not_released(tmp_path, method):
    home = make_home(tmp_path / "server")
    config = RunConfig(method=method, model={"width": 0.1}, images={"size": 8})
    make_run(home, rounds=1, config=config)
    with pytest.raises(NotReleasable, match="stays at each site"):
        make_release(home, Wish())
    home.store.close()
