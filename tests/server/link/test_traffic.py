"""Updates in a codec, and the model that its sites get: what counts, what is refused, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedwon.common.codec import TRAFFIC, codec_of, named
from fedwon.common.codec.coding import encode
from fedwon.common.files import sha256_file
from fedwon.common.rebuilding import rebuild
from fedwon.common.round_settings import RetentionConfig, TrafficConfig
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.rounds.strategy import FedWon
from fedwon.server.runs.run import Run
from fedwon.server.store import RunRow, TaskRow
from tests.server.rounds.test_strategy import in_turn, silent
from tests.server.server_kit import CLASSES, FakeGrid, answering, good_metrics, rows, same, shifted, small_run


class Grid(FakeGrid):
    """Hears of deltas, too."""

    def __init__(self, behaviours) -> None:
        super().__init__(behaviours)
        self.deltas = {}

    def shorten(self, model, delta):
        self.deltas[model] = delta


def start(run, grid, *, done=0, rounds=1):
    return FedWon(run, grid, done).start(grid, run.last()[1], num_rounds=rounds, timeout=5)


def coding(codec: str, by: float = 0.1, spoil=None):
    """A site that answers in a codec; `spoil` may change the parts."""

    def site(message, name):
        assert codec_of(message.content) == codec
        base = message.content["arrays"]
        parts = encode(shifted(base, by), base, codec, name).parts
        if spoil is not None:
            parts = spoil(parts)
        return RecordDict({"arrays": parts, "metrics": MetricRecord(good_metrics()), TRAFFIC: named(codec)})

    return site


def off(record: ArrayRecord, other: ArrayRecord) -> float:
    return max(float(np.abs(record[name].numpy() - other[name].numpy()).max(initial=0)) for name in record)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp16", "int8"])
def test_an_update_in_a_codec_counts(make_run, store, codec):
    run = make_run(up=codec)
    initial = run.last()[1]
    start(run, Grid({"a": coding(codec), "b": coding(codec)}))
    assert off(run.last()[1], shifted(initial, 0.1)) < (1e-6 if codec == "fp32" else 0.013)
    assert {row.state for row in rows(store, TaskRow)} == {"averaged"}


def test_a_site_that_answers_plainly_counts_as_well(make_run):
    run = make_run(up="int8")
    initial = run.last()[1]
    start(run, Grid({"a": answering(), "b": answering()}))
    assert off(run.last()[1], shifted(initial, 0.1)) < 1e-6


def without_scales(parts):
    return ArrayRecord({name: array for name, array in parts.items() if not name.endswith("|scale")})


def of_another_network(parts):
    return ArrayRecord({f"other.{name}": array for name, array in parts.items()})


def not_finite(parts):
    return ArrayRecord(
        {
            name: Array(ndarray=np.full_like(array.numpy(), np.nan)) if name.endswith("|scale") else array
            for name, array in parts.items()
        }
    )


def less(parts):
    return ArrayRecord(dict(list(parts.items())[1:]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_scales, "parts that do not fit"),
        (of_another_network, "has not got"),
        (not_finite, "not finite"),
        (less, "missing|parts that do not fit"),
    ],
)
def test_a_hostile_update_is_refused_and_stops_nobody(make_run, store, spoil, says):
    run = make_run(up="int8")
    grid = Grid({"a": coding("int8", spoil=spoil), "b": coding("int8")})
    start(run, grid)
    states = {row.site: (row.state, row.reason) for row in rows(store, TaskRow)}
    assert states["b"] == ("averaged", "")
    assert states["a"][0] == "refused"
    assert any(part in states["a"][1] for part in says.split("|")), states
    assert ("discount", f"{run.id}.r0001.train.a") in grid.said


@pytest.mark.parametrize("codec", ["fp32", "bf16", "fp16", "int8"])
def test_sites_make_the_very_file_that_was_committed(make_run, tmp_path, codec):
    run = make_run(down=codec, rounds=3)
    grid = Grid({"a": answering(), "b": answering(0.3)})
    start(run, grid, rounds=2)
    digests = {number: run.model(number).blob for number in (0, 1, 2)}
    for number in (1, 2):
        delta, model = grid.deltas[digests[number].digest], digests[number]
        assert delta.base == digests[number - 1].digest
        assert delta.blob.size < model.size
        made = rebuild(delta.blob, run.model(number - 1), tmp_path / "made", model.size)
        assert (made.digest, made.size) == (model.digest, model.size)
        assert sha256_file(made.path) == model.digest


def test_lossless_down_is_the_plain_average(make_run):
    plain, packed = make_run(), make_run(down="fp32")
    for run in (plain, packed):
        start(run, Grid({"a": answering(), "b": answering(0.3)}))
    assert same(plain.last()[1], packed.last()[1])


def test_a_lossy_model_is_near_the_average_and_the_same_again(make_run):
    plain, one, again = make_run(), make_run(down="int8"), make_run(down="int8")
    for run in (plain, one, again):
        start(run, Grid({"a": answering(), "b": answering(0.3)}))
    assert 0 < off(plain.last()[1], one.last()[1]) < 0.2 / 7
    assert same(one.last()[1], again.last()[1])


def test_a_run_that_is_taken_up_tells_of_its_last_model(make_run):
    run = make_run(down="int8", rounds=3)
    start(run, Grid({"a": answering()}))
    grid = Grid({"a": answering()})
    FedWon(run, grid, done=1)
    assert list(grid.deltas) == [run.last()[1].blob.digest]
    run.checkpoints.delta_path(1).unlink()
    grid = Grid({"a": answering()})
    FedWon(run, grid, done=1)
    assert grid.deltas == {}


def test_files_of_differences_go_with_their_models(store, tmp_path):
    config = small_run(down="int8", rounds=5).model_copy(update={"retention": RetentionConfig(rounds=2)})
    run = Run.create(store, tmp_path, config, CLASSES)
    start(run, Grid({"a": answering()}), rounds=5)
    models = {path.stem for path in run.folder.glob("round-*.safetensors")}
    assert {path.stem for path in run.folder.glob("round-*.delta")} == models - {"round-0000"}
    assert len(models) < 5


def test_a_run_of_a_version_without_codecs_goes_on_without(store, tmp_path):
    run = Run.create(store, tmp_path, small_run(up="int8", down="int8"), CLASSES)
    with store.session() as session:
        row = session.get_one(RunRow, run.id)
        row.config = {key: value for key, value in row.config.items() if key != "traffic"}
    assert Run.open(store, tmp_path).config.traffic == TrafficConfig(up="plain", down="plain")


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_a_late_update_starts_from_the_model_of_its_own_round(make_run, codec):
    run = make_run(up=codec, down="int8", rounds=2, late_rounds=1)
    initial = run.last()[1]
    grid = Grid({"a": coding(codec, by=5.0), "b": in_turn(silent, coding(codec, by=0.5))})
    start(run, grid, rounds=2)
    first, staleness = run.model(1), run.config.aggregation.staleness
    assert off(first, initial) > 4  # decoded against this one, it would be as far off
    expected = average(
        [Update("a", 10, shifted(first, 5.0)), Update("b", 10, shifted(initial, 0.5), rounds_late=1)],
        staleness=staleness,
    )
    assert off(run.last()[1], expected) < 0.3


def of_no_known_type(message, site):
    made = ArrayRecord({name: Array(ndarray=array.numpy() * 1j) for name, array in message.content["arrays"].items()})
    return RecordDict({"arrays": made, "metrics": MetricRecord(good_metrics())})


def junk(message, site):
    made = {
        name: Array("float32", array.shape, "numpy.ndarray", b"junk")
        for name, array in message.content["arrays"].items()
    }
    return RecordDict({"arrays": ArrayRecord(made), "metrics": MetricRecord(good_metrics())})


@pytest.mark.parametrize("hostile", [of_no_known_type, junk])
def test_arrays_from_memory_that_are_none_stop_nobody(make_run, store, hostile):
    """As they may come over Flower's own engines, which look into no array."""
    run = make_run()
    start(run, Grid({"a": hostile, "b": answering()}))
    assert {row.site: row.state for row in rows(store, TaskRow)} == {"a": "refused", "b": "averaged"}
