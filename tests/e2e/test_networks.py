"""Every network trains one image at a time between real processes."""

from __future__ import annotations

import pytest

from fedwon.common.arrays import open_record
from fedwon.models import available_models


@pytest.mark.parametrize("name", available_models())
def test_a_federation_trains_it_at_batch_one(fleets, name):
    fleet = fleets(
        rounds=1,
        model={"name": name, "width": 0.05, "relu_constant": True},
        images={"size": 64, "max_train": 8, "channels": 1},
        training={"batch_size": 1, "lr": 0.02, "clipping": 0.64},
    )
    server = fleet.start_server()
    for site in ("metal", "paper"):
        fleet.site(site)
    sites = [fleet.start_site(site, "--until-finished") for site in ("metal", "paper")]
    server.end()
    for site in sites:
        site.end()
    assert fleet.status()["state"] == "finished"
    first, last = (open_record(path) for path in sorted(fleet.runs()[-1].glob("round-*.safetensors")))
    moved = [key for key in first if (first[key].numpy() != last[key].numpy()).any()]
    assert next(iter(first)) in moved  # the first convolution: the gradient has come through the whole network
    assert len(moved) > len(first) / 2  # what is behind a residual's scale of 0 hardly moves in five steps
