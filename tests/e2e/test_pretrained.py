"""A network that was trained elsewhere, from its weights file to a model of the federation, by commands alone."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.convert import with_statistics
from fedwon.common.model_file import read_model, trained_network
from fedwon.models import largest_difference, normalization_layers
from fedwon.models.outside_networks import original
from tests.e2e.fleet import SITES, Fleet, Process, command, environment

RUN = {
    "rounds": 1,
    "images": {"size": 32, "max_train": 8},
    "training": {"batch_size": 1, "lr": 0.001},
    "participation": {"minimum": 2, "retries": 0},
}


@pytest.fixture(params=["torchvision:mobilenet_v3_small", "timm:lcnet_050"])
def architecture(request) -> str:
    return request.param


@pytest.fixture
def fleet(tmp_path, architecture):
    torch.manual_seed(0)
    model = with_statistics(original(architecture, 4), torch.randn(4, 3, 64, 64))
    save_file(model.state_dict(), tmp_path / "original.safetensors")
    files = ("--weights", tmp_path / "original.safetensors", "--out", tmp_path / "free.safetensors")
    done = command("fedwon-server", "convert", "--architecture", architecture, *files)
    assert done.returncode == 0, done.stderr
    assert "absorbed into the convolution before, exactly" in done.stdout
    made = Fleet(tmp_path, {**RUN, "model": {"name": architecture}, "pretrained": str(tmp_path / "free.safetensors")})
    for site in SITES:
        made.site(site)
    yield made
    made.close()


def sites(fleet: Fleet, **environments: dict[str, str]) -> list[Process]:
    def start(name: str) -> Process:
        where = fleet.folder / name
        env = environments.get(name, environment())
        return fleet.spawn("fedwon-client", "start", "--dir", where, "--until-finished", log=f"site-{name}", env=env)

    return [start(name) for name in SITES]


def test_lines_train_on_with_a_network_that_is_converted(fleet, architecture):
    server = fleet.start_server()
    started = sites(fleet)
    server.end()
    for site in started:
        site.end()
    first, last = (
        trained_network(*read_model(fleet.runs()[-1] / f"round-{number:04}.safetensors")) for number in (0, 1)
    )
    assert normalization_layers(last) == []
    images = torch.randn(2, 3, 64, 64)
    assert largest_difference(first, last, images) > 1e-4, "it has learnt something"
    task, _ = read_model(fleet.runs()[-1] / "model.safetensors")
    assert (task.model.name, task.training.batch_size) == (architecture, 1)


@pytest.mark.parametrize("architecture", ["timm:lcnet_050"], indirect=True)
def test_a_line_without_timm_says_what_it_lacks(fleet, tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')\n")
    path = os.pathsep.join([str(absent), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = fleet.start_server()
    sites(fleet, metal={**environment(), "PYTHONPATH": path})
    server.wait_says("no update from metal: missing-extra: .*timm is not installed here")
    assert "pip install 'fedwon[timm]'" in fleet.said("site-metal")
