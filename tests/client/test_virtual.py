"""One app that is many sites, and a site that says who it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from fedwon.client.app import app
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.virtual import VirtualSites, list_sites
from fedwon.common.errors import DataMissing
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.version import VERSION
from tests.client.site_kit import write_classes


def query() -> Message:
    host_app()
    return incoming(RecordDict(), "query.survey", node_id=7, message_id="who", group_id="")


def test_a_site_says_its_name_its_version_and_its_images(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", {"a": 6, "b": 5})
    settings = SiteConfig(data=DataConfig(path="images")).for_node("line-1", tmp_path)
    told = app(query(), make_context(7, settings)).content["site"]
    assert dict(told) == {
        "name": "line-1",
        "version": VERSION,
        "classes": ["a", "b"],
        "train": [6, 5],
        "validation": [0, 0],
        "test": [0, 0],
    }


def test_a_site_without_images_says_so(tmp_path: Path) -> None:
    settings = SiteConfig(data=DataConfig(path="nowhere")).for_node("line-1", tmp_path)
    with pytest.raises(DataMissing):
        app(query(), make_context(7, settings))


def test_a_virtual_node_is_the_site_of_its_number(tmp_path: Path) -> None:
    for name, images in (("first", 3), ("second", 4)):
        write_classes(tmp_path / name, {"a": images, "b": 2})
    sites = {name: SiteConfig(data=DataConfig(path=name), threads=1) for name in ("second", "first")}
    list_sites(tmp_path / "sites.json", sites, tmp_path)
    virtual = VirtualSites(tmp_path / "sites.json")
    for number, (name, images) in enumerate((("first", 3), ("second", 4))):
        context = make_context(7, {"partition-id": number, "num-partitions": 2})
        told = virtual(query(), context).content["site"]
        assert (told["name"], told["train"]) == (name, [images, 2])
        assert set(context.node_config) == {"partition-id", "num-partitions"}  # Flower's own view stays as it was
