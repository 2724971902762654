"""Every method from end to end in one process: what is averaged, what stays, what is frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.training.local_state import LocalStates, recall
from fedwon.common.arrays import open_record
from fedwon.common.errors import Stopped
from fedwon.common.methods import METHODS
from fedwon.common.model_file import network
from fedwon.common.round_settings import ParticipationConfig, TrafficConfig
from fedwon.common.run_config import RunConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig
from fedwon.models import local_names
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.engines.simulating import standalone
from fedwon.server.rounds.events import RoundCommitted
from fedwon.server.runs.federating import federate
from fedwon.server.runs.run import Run
from fedwon.server.store import Store

SITES = ("dark", "light")
PLAIN, INT8 = TrafficConfig(up="plain", down="plain"), TrafficConfig(up="int8", down="int8")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteConfig]:
    """Two sites with the same classes, one in the dark."""
    folder = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(5)
    labels = np.arange(24) % 2
    found = {}
    for name, brightness in zip(SITES, (40, 170), strict=True):
        pixels = rng.integers(0, 40, (24, 8, 8, 1)) + brightness + 40 * labels[:, None, None, None]
        np.savez(folder / f"{name}.npz", images=pixels.astype(np.uint8), labels=labels)
        found[name] = SiteConfig(data=DataConfig(path=str(folder / f"{name}.npz")), threads=1)
    return found


def config(method: str, **changes: object) -> RunConfig:
    settings: dict[str, object] = {
        "method": method,
        "rounds": 4,
        "model": ModelConfig(width=0.1),
        "images": ImageConfig(size=8, channels=1),
        "training": TrainingConfig(batch_size=4, lr=0.05),
        "participation": ParticipationConfig(minimum=2),
        "traffic": PLAIN,
        **changes,
    }
    return RunConfig.model_validate(settings)


def make_store(folder: Path) -> Store:
    folder.mkdir(exist_ok=True)
    return Store(folder / "fedwon.db")


class Federation:
    """A finished run: global models by round, and what each site kept."""

    def __init__(self, method: str, sites: dict[str, SiteConfig], folder: Path, **changes: object) -> None:
        store = make_store(folder)
        self.config, self.folder = config(method, **changes), folder
        self.grid = InProcessGrid(sites, folder, folder=folder / "local")
        self.outcome = federate(self.grid, self.config, store, folder)
        self.run = Run.open(store, folder)
        self.models = [self.run.model(number) for number in range(self.config.rounds + 1)]
        self.local = {
            name: recall(LocalStates(folder / "local" / name).load(), self.run.id, before=99) for name in sites
        }
        self.names = local_names(network(self.run.task(1)), METHODS[self.config.method].keeps)
        store.close()


def changed(first: ArrayRecord, second: ArrayRecord) -> set[str]:
    return {name for name in first if not np.array_equal(first[name].numpy(), second[name].numpy())}


@pytest.mark.parametrize(
    ("method", "traffic"), [*((method, PLAIN) for method in sorted(METHODS)), ("fedbn", INT8), ("fedwon", INT8)]
)
def test_what_stays_is_never_averaged_and_the_rest_always_is(
    method: str, traffic: TrafficConfig, sites: dict[str, SiteConfig], tmp_path: Path
) -> None:
    made = Federation(method, sites, tmp_path, traffic=traffic)
    assert [score.site for score in made.outcome.evaluation.scores] == list(SITES)
    first, last = made.models[0], made.models[-1]
    moved = changed(first, last)
    assert moved == set(first) - made.names
    if not made.names:
        assert made.local == {"dark": None, "light": None}
        return
    dark, light = made.local["dark"], made.local["light"]
    assert dark is not None
    assert light is not None
    assert set(dark) == set(light) == made.names
    counters = {name for name in made.names if name.endswith("num_batches_tracked")}
    assert changed(dark, light) == made.names - counters
    assert changed(dark, ArrayRecord({name: first[name] for name in dark})) == made.names


@pytest.mark.parametrize(("method", "kept"), [("fedbn", 25), ("silobn", 15), ("standalone", 37)])
def test_how_much_stays(method: str, kept: int, sites: dict[str, SiteConfig], tmp_path: Path) -> None:
    """Five batch norms of two parameters and three statistics; six layers of weight and bias."""
    assert len(Federation(method, sites, tmp_path, rounds=1).names) == kept


def test_fixbn_freezes_the_statistics_after_half_the_rounds(sites: dict[str, SiteConfig], tmp_path: Path) -> None:
    made = Federation("fixbn", sites, tmp_path)
    statistics = local_names(network(made.run.task(1)), "statistics")
    assert statistics <= changed(made.models[1], made.models[2])
    assert not statistics & changed(made.models[2], made.models[4])
    assert changed(made.models[2], made.models[3]) == set(made.models[0]) - statistics
    assert [made.run.task(number).frozen_statistics for number in range(1, 5)] == [False, False, True, True]


def test_a_site_is_judged_by_its_own_layers(sites: dict[str, SiteConfig], tmp_path: Path) -> None:
    """Alone, a site's model is what plain training on it gives: the twin is a federation of one."""
    made = Federation("standalone", sites, tmp_path)
    for name in SITES:
        alone = standalone(config("standalone", participation=ParticipationConfig(minimum=1)), sites, name, tmp_path)
        [own] = [score for score in alone.scores if score.site == name]
        [judged] = [score for score in made.outcome.evaluation.scores if score.site == name]
        assert judged == own


@pytest.mark.parametrize(("method", "traffic"), [("fedbn", PLAIN), ("standalone", PLAIN), ("fedbn", INT8)])
def test_a_resumed_run_gives_the_same_bits(
    method: str, traffic: TrafficConfig, sites: dict[str, SiteConfig], tmp_path: Path
) -> None:
    straight = Federation(method, sites, tmp_path / "straight", traffic=traffic)
    folder = tmp_path / "cut"
    store = make_store(folder)

    def cut(event: object) -> None:
        if isinstance(event, RoundCommitted) and event.number == 2:
            raise Stopped("cut")

    local = folder / "local"
    with pytest.raises(Stopped):
        federate(InProcessGrid(sites, folder, folder=local), straight.config, store, folder, listeners=[cut])
    outcome = federate(InProcessGrid(sites, folder, folder=local), straight.config, store, folder, resume=True)
    assert not changed(straight.models[-1], open_record(outcome.model))
    assert outcome.evaluation == straight.outcome.evaluation
    for name, kept in straight.local.items():
        again = recall(LocalStates(local / name).load(), outcome.run, before=99)
        assert kept is not None
        assert again is not None
        assert not changed(kept, again)
    store.close()


def test_standardized_weights_go_through_a_codec(sites: dict[str, SiteConfig], tmp_path: Path) -> None:
    training = TrainingConfig(batch_size=4, lr=0.05, weights_sent="standardized")
    plain, coded = (
        Federation("fedwon", sites, tmp_path / traffic.up, training=training, traffic=traffic)
        for traffic in (PLAIN, INT8)
    )
    for name, values in plain.models[-1].items():
        other = coded.models[-1][name].numpy()
        assert np.abs(values.numpy() - other).mean() <= 0.05 * np.abs(values.numpy()).mean() + 1e-3, name


def test_standardized_weights_are_what_is_averaged(sites: dict[str, SiteConfig], tmp_path: Path) -> None:
    training = TrainingConfig(batch_size=4, lr=0.05, weights_sent="standardized")
    one = {"dark": sites["dark"]}
    alone = ParticipationConfig(minimum=1)
    made = Federation("fedwon", one, tmp_path / "a", rounds=1, training=training, participation=alone)
    plain = Federation("fedwon", one, tmp_path / "b", rounds=1, participation=alone)
    filters = made.models[1]["conv2.conv.weight"].numpy().reshape(8, -1)
    assert np.linalg.norm(filters, axis=1) == pytest.approx(np.ones(8), abs=1e-5)
    assert filters.mean(axis=1) == pytest.approx(np.zeros(8), abs=1e-6)
    assert changed(made.models[1], plain.models[1]) == {f"conv{i}.conv.weight" for i in (1, 2, 3)}
    assert made.outcome.evaluation.scores[0].correct == plain.outcome.evaluation.scores[0].correct
