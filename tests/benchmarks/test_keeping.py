"""Checkpoints that are kept in half precision."""

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from benchmarks.paper.keeping import halved, keep, stored
from benchmarks.paper.spec import Spec, result_path, run_folder
from benchmarks.paper.tuning import trials
from fedwon.client.training.local_state import LocalStates, remember
from fedwon.common.arrays import write_record
from fedwon.common.model_file import describe, network, read_model
from fedwon.common.network_state import record_of
from fedwon.common.task_config import TaskConfig
from fedwon.models import local_names
from fedwon.server.comparison.scoring import LOCAL, served

CLASSES = ("a", "b", "c")


def test_halving_keeps_what_half_precision_cannot_hold():
    arrays = {
        "weight": np.float32([1.0001, -3.5]),
        "large": np.float32([1e6]),
        "counter": np.array(7, dtype=np.int64),
        "empty": np.zeros(0, dtype=np.float32),
    }
    found = halved(ArrayRecord({name: Array(values) for name, values in arrays.items()}))
    assert {name: array.dtype for name, array in found.items()} == {
        "weight": "float16",
        "large": "float32",
        "counter": "int64",
        "empty": "float16",
    }
    for name, values in arrays.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=2**-11)


def run_of(spec, tmp_path):
    """A run with tuned settings, a model and a site's own layers, as `run` leaves them."""
    task = TaskConfig.of(spec.config, run="r1", server_round=2, classes=CLASSES)
    model, folder = network(task), run_folder(spec, tmp_path / "checkpoints")
    folder.mkdir(parents=True)
    write_record(record_of(model), folder / "model.safetensors", describe(task))
    local = local_names(model, task.keeps)
    own = {name: tensor + 1 for name, tensor in model.state_dict().items() if name in local}
    for number, change in ((1, 5), (2, 0)):
        state = RecordDict()
        remember(state, "r1", number, ArrayRecord({name: Array(tensor + change) for name, tensor in own.items()}))
        LocalStates(folder / LOCAL / "mnist").keep(state)
    result_path(spec, tmp_path / "results").parent.mkdir(parents=True)
    return model, own


def tuned(tmp_path):
    for lr, correct in ((0.03, 1), (0.1, 2), (0.3, 1)):
        for trial in trials("digits_small", "fedbn", 32, lr):
            path = result_path(trial, tmp_path / "results")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f'{{"scores": {{"1": {{"x": {{"validation": {{"correct": {correct}, "examples": 9}}}}}}}}}}'
            )


def test_a_row_is_kept_with_what_stays_at_its_sites(tmp_path):
    tuned(tmp_path)
    spec = Spec("digits_small", "fedbn", 32, 0.1, None, seed=1)
    model, own = run_of(spec, tmp_path)
    kept = tmp_path / "kept"
    written = keep(["digits_small"], results=tmp_path / "results", checkpoints=tmp_path / "checkpoints", kept=kept)
    assert written == [kept / "digits_small" / spec.key]
    assert dict(stored("digits_small", tmp_path / "nowhere", kept)) == {spec.key: written[0] / "model.safetensors"}

    task, record = read_model(written[0] / "model.safetensors")
    found = served(task, record, written[0] / LOCAL, "mnist")
    assert found.means == "the global model with its own layers"
    state = found.network.state_dict()
    assert own
    for name, tensor in {**model.state_dict(), **own}.items():
        torch.testing.assert_close(state[name], tensor, rtol=2**-10, atol=1e-6)

    trial = run_folder(trials("digits_small", "fedbn", 32, 0.1)[0], tmp_path / "checkpoints")
    trial.mkdir()
    (trial / "model.safetensors").touch()
    assert set(dict(stored("digits_small", tmp_path / "checkpoints", tmp_path / "nowhere"))) == {spec.key}

    size = sum(path.stat().st_size for path in written[0].rglob("*.safetensors"))
    whole = run_folder(spec, tmp_path / "checkpoints") / "model.safetensors"
    assert size < 0.6 * whole.stat().st_size
