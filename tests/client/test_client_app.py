"""Flower messages through the app, without any link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedwon.client import app as module
from fedwon.client.app import app, derive_seed
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.errors import ClassMismatch, ConfigError, DataError, DataMissing, ModelMismatch, TaskFailed
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.task_config import TaskConfig
from tests.client.site_kit import task_of, write_classes

TRAIN_KEYS = {
    "num-examples",
    "train-loss",
    "train-seconds",
    "steps",
    "clipped-fraction",
    "validation-loss",
    "validation-correct",
    "validation-examples",
    "corrupt-images",
}
EVALUATE_KEYS = {
    "num-examples",
    *(f"{part}-{what}" for part in ("validation", "test") for what in ("loss", "correct", "examples")),
    "corrupt-images",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    host_app()
    monkeypatch.setattr(module, "_opened", module._Opened())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "images", {"a": 6, "b": 5, "c": 4})


def weights(task: TaskConfig) -> ArrayRecord:
    return record_of(network(task))


def site(folder: Path, name: str = "line1", **config: Any) -> Context:
    settings = SiteConfig(data=DataConfig(path=folder.name), **config)
    return make_context(7, settings.for_node(name, folder.parent))


def ask(kind: str, context: Context, task: TaskConfig | None = None, arrays: ArrayRecord | None = None) -> RecordDict:
    task = task or task_of()
    config = ConfigRecord({**task.flat(), "server-round": 1})  # Flower's strategies add the latter
    content = RecordDict({"arrays": arrays or weights(task), "config": config})
    reply = app(incoming(content, kind, node_id=7, message_id="m", group_id="1"), context)
    assert reply.metadata.reply_to_message_id == "m"
    return reply.content


def test_train_evaluates_what_came_and_returns_what_it_made(folder: Path) -> None:
    content = ask("train", site(folder))
    metrics = content["metrics"]
    assert set(metrics) == TRAIN_KEYS
    assert (metrics["num-examples"], metrics["validation-examples"], metrics["steps"]) == (12, 3, 2)
    sent = weights(task_of())
    assert list(content["arrays"]) == list(sent)
    assert any((content["arrays"][name].numpy() != sent[name].numpy()).any() for name in sent)
    before = ask("evaluate", site(folder))["metrics"]
    assert before["validation-loss"] == metrics["validation-loss"]
    assert before["validation-correct"] == metrics["validation-correct"]


def test_evaluate_covers_validation_and_test_images(folder: Path) -> None:
    metrics = ask("evaluate", site(folder))["metrics"]
    assert set(metrics) == EVALUATE_KEYS
    assert (metrics["num-examples"], metrics["test-examples"], metrics["test-loss"]) == (3, 0, 0.0)
    write_classes(folder.parent / "more", {"a": 2})
    context = make_context(7, {**site(folder).node_config, "data.test": "more"})
    metrics = ask("evaluate", context)["metrics"]
    assert (metrics["num-examples"], metrics["test-examples"]) == (5, 2)
    assert metrics["test-loss"] > 0


@pytest.mark.parametrize("normalization", ["fedwon", "fedavg", "fedavg_gn", "fedavg_ln"])
def test_every_tensor_comes_back(folder: Path, normalization: str) -> None:
    task = task_of(method=normalization)
    sent = weights(task)
    back = ask("train", site(folder), task)["arrays"]
    assert [(name, array.dtype, tuple(array.shape)) for name, array in back.items()] == [
        (name, array.dtype, tuple(array.shape)) for name, array in sent.items()
    ]


def same(first: ArrayRecord, second: ArrayRecord) -> bool:
    return all((first[name].numpy() == second[name].numpy()).all() for name in first)


def test_a_task_repeats_bit_for_bit_and_rounds_and_sites_differ(folder: Path) -> None:
    task = task_of(training={"batch_size": 1})
    first = ask("train", site(folder), task)["arrays"]
    module._opened._entries.clear()
    assert same(ask("train", site(folder), task)["arrays"], first)
    assert not same(ask("train", site(folder, "line2"), task)["arrays"], first)
    later = task.model_copy(update={"round": 2})
    assert not same(ask("train", site(folder), later, weights(task))["arrays"], first)


def test_seeds_are_alike_everywhere_and_differ_in_each_part() -> None:
    assert derive_seed(1, "line1", 3) == 511094504044177373
    parts = {derive_seed(seed, name, number) for seed in (1, 2) for name in ("a", "b") for number in (1, 2)}
    assert len(parts) == 8
    assert all(0 <= seed < 2**63 for seed in parts)


def test_a_sites_own_batch_size_counts(folder: Path) -> None:
    assert ask("train", site(folder, batch_size=1))["metrics"]["steps"] == 12


def test_batch_norm_at_batch_one_is_refused_with_a_reason(folder: Path) -> None:
    with pytest.raises(TaskFailed, match="needs 2"):
        ask("train", site(folder, batch_size=1), task_of(method="fedavg"))


def test_threads_are_set(folder: Path) -> None:
    ask("evaluate", site(folder, threads=2))
    assert torch.get_num_threads() == 2


def test_images_are_decoded_once_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = module.open_site
    monkeypatch.setattr(module, "open_site", lambda *args: opened.append(args[1].run) or original(*args))
    for number in (1, 2):
        ask("train", site(folder), task_of(number=number))
        ask("evaluate", site(folder), task_of(number=number))
    assert opened == ["run-1"]
    ask("evaluate", site(folder), task_of().model_copy(update={"run": "run-2"}))
    ask("evaluate", site(folder), task_of())
    assert opened == ["run-1", "run-2", "run-1"]
    assert len(module._opened._entries) == 1


def test_images_that_changed_fail_one_task_only(folder: Path) -> None:
    context = make_context(7, {**site(folder).node_config, "data.cache_mb": 0})
    ask("train", context)
    (folder / "a" / "000.png").unlink()
    with pytest.raises(DataError, match=r"a/000\.png could be read before"):
        ask("train", context)
    assert ask("train", context)["metrics"]["num-examples"] == 11


def test_as_many_sites_are_kept_as_fit_into_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("evaluate", site(folder, "line0"))
    ((_, held),) = module._opened._entries.values()
    monkeypatch.setattr(module._Opened, "most_bytes", 20 * held.nbytes)
    for number in range(1, 23):
        ask("evaluate", site(folder, f"line{number}"))
    assert len(module._opened._entries) == 20
    monkeypatch.setattr(module._Opened, "most_bytes", 1)
    ask("evaluate", site(folder, "line30"))
    assert len(module._opened._entries) == 1, "the latest stays, however large it is"


def test_what_was_left_out_is_told(folder: Path) -> None:
    for number in range(25):
        (folder / "a" / f"bad{number:02}.png").write_bytes(b"no image")
    write_classes(folder, {"x": 2})
    task = task_of(("a", "b", "c", "d"), images={"size": 16, "unknown_classes": "skip"})
    for kind in ("train", "evaluate"):
        content = ask(kind, site(folder), task)
        assert content["metrics"]["corrupt-images"] == 25
        notes = content["notes"]
        assert len(notes["corrupt"]) == 20
        assert notes["corrupt"][0].startswith("a/bad")
        assert (notes["skipped-classes"], notes["skipped-images"]) == (["x"], [2])
        assert notes["missing-classes"] == ["d"]


def test_an_unknown_class_ends_the_task(folder: Path) -> None:
    with pytest.raises(ClassMismatch):
        ask("train", site(folder), task_of(("a", "b")))


def test_tensors_of_another_network_are_refused(folder: Path) -> None:
    with pytest.raises(ModelMismatch, match=r"fc3\.weight"):
        ask("train", site(folder), arrays=weights(task_of(("a", "b"))))
    short = ArrayRecord(dict(list(weights(task_of()).items())[1:]))
    with pytest.raises(ModelMismatch, match="missing"):
        ask("evaluate", site(folder), arrays=short)


def test_a_network_that_is_not_known_here(folder: Path) -> None:
    with pytest.raises(TaskFailed, match=r"cannot build the network: .*unknown model 'vgg'"):
        ask("train", site(folder), task_of(model={"name": "vgg"}), weights(task_of()))


def test_a_task_without_its_records(folder: Path) -> None:
    message = incoming(RecordDict({"m": MetricRecord()}), "train", node_id=7, message_id="m", group_id="1")
    with pytest.raises(TaskFailed, match=r"it has: m"):
        app(message, site(folder))


def test_site_settings_are_checked(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no `site`"):
        ask("train", make_context(7, {"data.path": "x"}))
    with pytest.raises(ConfigError, match="`data` is missing"):
        ask("train", make_context(7, {"site": "x"}))
    with pytest.raises(ConfigError, match="did you mean `batch_size`"):
        ask("train", make_context(7, {"site": "x", "data.path": "x", "batchsize": 1}))
    with pytest.raises(DataMissing):
        ask("train", make_context(7, {"site": "x", "data.path": "nowhere", "base": str(folder)}))


def test_virtual_nodes_of_flowers_simulation_take_a_domain_each() -> None:
    task = task_of(tuple("0123456789"))
    names = []
    for number in range(4):
        context = make_context(7, {"partition-id": number, "num-partitions": 4}, {"domains": "digits"})
        names.append(module.Site.of(context).name)
    assert names == ["backlight", "metal", "paper", "tilted"]
    assert ask("evaluate", context, task)["metrics"]["test-examples"] == 113
    with pytest.raises(ConfigError, match="Virtual node 4 has no domain"):
        module.Site.of(make_context(7, {"partition-id": 4}, {"domains": "digits"}))
    with pytest.raises(ConfigError, match="no `site`"):
        module.Site.of(make_context(7, {"partition-id": 4}))


def test_flowers_own_strategy_takes_the_replies(folder: Path) -> None:
    replies = []
    for name in ("line1", "line2"):
        config = ConfigRecord({**task_of().flat(), "server-round": 1})
        content = RecordDict({"arrays": weights(task_of()), "config": config})
        message = incoming(content, "train", node_id=7, message_id=name, group_id="1")
        replies.append(app(message, site(folder, name)))
    arrays, metrics = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    first, second = (reply.content["arrays"]["fc3.bias"].numpy() for reply in replies)
    assert arrays["fc3.bias"].numpy() == pytest.approx((first + second) / 2)
    assert isinstance(replies[0], Message)


def test_a_round_leaves_other_peoples_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ask("train", site(folder), arrays=weights(task_of()))
    assert torch.equal(torch.rand(2), expected)
