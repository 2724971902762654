"""A release of a tiny run, made once for all tests here, and an edge box to run it on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedwon.common.pki import Credentials, new_key, request, save_credentials, sign_request
from fedwon.server.releases.making import make_release
from fedwon.server.releases.wish import Wish
from tests.release.edge_box import EdgeBox
from tests.server.release_kit import make_home, make_run, photographs


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A federation's home with a release, real images, and the folder of a site that has enrolled."""
    place = tmp_path_factory.mktemp("made")
    home = make_home(place / "server")
    run, images = make_run(home), photographs(place / "images")
    release = make_release(home, Wish(images=images, int8=True, limit_int8=1.0))
    site, key = place / "site", new_key()
    certificate = sign_request(home.authority, request("left", key), "left")
    save_credentials(site / "pki", "site", Credentials(home.authority.pem, certificate, key))
    yield SimpleNamespace(home=home, run=run, release=release, images=images, site=site)
    home.store.close()


@pytest.fixture(scope="session")
def edge_box(tmp_path_factory):
    return EdgeBox(tmp_path_factory.mktemp("edge") / "venv")
