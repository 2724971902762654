"""Domains dealt out to virtual sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.config import DataConfig
from fedwon.client.images.data import survey
from fedwon.client.images.listing import list_site
from fedwon.common.errors import ConfigError, MissingExtra, RunError
from fedwon.common.surveys import images_in
from fedwon.server.engines import ray_engine
from fedwon.server.engines.dealing import LEAST, domain_of, portions, virtual_sites
from fedwon.server.engines.ray_engine import RayEngine
from fedwon.server.engines.simulating import SimulationConfig, domain_sites
from tests.e2e.fleet import command, images


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 10), st.integers(0, 5))
def test_everybody_gets_enough_and_no_image_is_left_out(count, parts, least, seed):
    dealt = portions(count, parts, least, np.random.default_rng(seed))
    again = portions(count, parts, least, np.random.default_rng(seed))
    assert [rows.tolist() for rows in dealt] == [rows.tolist() for rows in again]
    assert len(dealt) == parts
    assert all(len(rows) >= min(least, count) for rows in dealt)
    assert all(len(set(rows.tolist())) == len(rows) for rows in dealt)
    flat = np.concatenate(dealt)
    if count >= parts * least:
        assert sorted(flat.tolist()) == list(range(count))  # a partition
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    else:
        times = np.bincount(flat, minlength=count)
        assert times.max() - times.min() <= 1  # shared as evenly as can be


def test_files_and_folders_are_dealt_out(tmp_path: Path):
    write_folder = tmp_path / "press"
    for part, number in (("train", 12), ("test", 4)):
        for label in "ab":
            for row in range(number):
                path = write_folder / part / label / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"not looked at")
    domains = {
        "press": DataConfig(path=str(write_folder)),
        "saw": DataConfig(path=str(images(tmp_path / "saw.npz")), test=str(images(tmp_path / "more.npz"))),
    }
    found = virtual_sites(domains, 5, 3, tmp_path / "dealt")
    assert list(found) == ["press--0000", "press--0001", "press--0002", "saw--0000", "saw--0001"]
    assert [domain_of(name) for name in found] == ["press"] * 3 + ["saw"] * 2
    parts = {name: list_site(data, tmp_path) for name, data in found.items()}
    keys = [key for name in list(found)[:3] for key in parts[name]["train"].keys]
    assert len(keys) == 24
    assert sum(len(parts[name]["train"].classes) for name in ("saw--0000", "saw--0001")) == 100
    assert sum(len(parts[name]["test"].classes) for name in ("saw--0000", "saw--0001")) == 100
    first = np.load(tmp_path / "dealt" / "saw--0000_train.npz")
    source = np.load(tmp_path / "saw.npz")
    rows = [int(np.flatnonzero((source["images"] == image).all((1, 2, 3)))[0]) for image in first["images"]]
    assert (source["labels"][rows] == first["labels"]).all()


def test_a_built_in_line_has_too_few_images_for_a_thousand(tmp_path: Path):
    found = virtual_sites({"paper": DataConfig(path="digits:paper")}, 250, 1, tmp_path / "dealt")
    assert len(found) == 250
    for data in list(found.values())[:3]:
        counted = survey(data, tmp_path)
        assert images_in(counted, ("train",)) == LEAST["train"]
        assert images_in(counted, ("test",)) == LEAST["test"]


def test_fewer_sites_than_domains_are_an_error(tmp_path: Path):
    config = SimulationConfig()
    with pytest.raises(ConfigError, match="4 domains, and only 3 sites"):
        domain_sites(config, "digits", virtual=3, folder=tmp_path)


def test_settings_of_a_domain_hold_for_its_virtual_sites(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name in ("paper", "metal"):
        images(tmp_path / "data" / f"{name}.npz")
    config = SimulationConfig.model_validate({"sites": {"metal": {"batch_size": 3}}})
    sites = domain_sites(config, str(tmp_path / "data"), virtual=4, folder=tmp_path / "dealt")
    assert [site.batch_size for site in sites.values()] == [3, 3, None, None]


def test_ray_is_asked_for_no_port_beyond_this_machine():
    settings = RayEngine(workers=3).settings(threads=2)
    assert settings["init_args"] == {
        "address": "local",  # never somebody else's Ray that runs here already
        "include_dashboard": False,
        "log_to_driver": False,
        "num_cpus": 6,
    }
    assert settings["client_resources"]["num_cpus"] == 2
    assert RayEngine(address="ray.local:6379").settings(1)["init_args"]["address"] == "ray.local:6379"


def engine_run(folder: Path):
    return RayEngine().run({}, SimulationConfig().participation, print, base=folder, folder=folder, threads=1)


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="Ray is not installed") as caught:
        engine_run(tmp_path)
    assert "fedwon[simulation]" in caught.value.hint


def test_an_engine_that_breaks_is_an_error_of_ours(tmp_path: Path, monkeypatch):
    pytest.importorskip("ray", reason="fedwon[simulation] is not installed")

    def breaks(*arguments, **settings):
        raise RuntimeError("crashed") from ValueError("no memory")

    monkeypatch.setattr("flwr.simulation.run_simulation", breaks)
    with pytest.raises(RunError, match="simulation engine failed: no memory"):
        engine_run(tmp_path)


def test_rays_options_go_with_ray_only(tmp_path: Path):
    done = command("fedwon-server", "simulate", tmp_path / "run.yaml", "--data", "digits", "--workers", 2)
    assert done.returncode == 2
    assert "--engine ray" in done.stderr
