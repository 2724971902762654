"""The ServerApp of Flower's engines, with the real ClientApp behind a grid that keeps everything in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from flwr.app import Message

from fedwon.client.app import app
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.errors import TooFewUpdates
from fedwon.common.flower import make_context
from fedwon.server import superlink
from tests.e2e import faults
from tests.e2e.fleet import SITES, TINY, digests, images
from tests.server.engines.test_flower_grid import FlowersGrid

BREAKS_AT = "2"
CHANGES = {"participation": {**TINY["participation"], "retries": 0}}


def nodes(folder: Path, *, break_at: str | None = None):
    """Flower's nodes, each with a context of its own that lasts as long as they."""

    def node(name: str):
        data = DataConfig(path=str(images(folder / f"{name}.npz")))
        context = make_context(1, SiteConfig(data=data, threads=1).for_node(name, folder))

        def work(message: Message):
            if message.metadata.message_type == "train" and message.metadata.group_id == break_at:
                return "the machine is gone"
            return app(message, context).content

        return work

    return {number: node(name) for number, name in zip((7, 3), SITES, strict=True)}


def settings(folder: Path, **more):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**TINY, **CHANGES}))
    return {"config": str(path), "out": str(folder / "out"), **more}


def test_it_gives_the_models_of_the_simulation_and_a_broken_run_goes_on(tmp_path):
    expected = faults.undisturbed(tmp_path / "undisturbed", *SITES, **CHANGES)
    with pytest.raises(TooFewUpdates, match="the machine is gone"):
        superlink.run(FlowersGrid(nodes(tmp_path, break_at=BREAKS_AT)), settings(tmp_path))
    [run] = (tmp_path / "out" / "runs").iterdir()
    assert digests(run) == expected[:2]  # the initial model and one round
    outcome = superlink.run(FlowersGrid(nodes(tmp_path)), settings(tmp_path, resume=True))
    assert outcome.model.parent == run
    assert digests(run) == expected
    assert {score.site for score in outcome.evaluation.scores} == set(SITES)
