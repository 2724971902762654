"""What a site lets the server ask of it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.day_count import TRAINED
from fedwon.client.limits import KINDS, Limits, LimitsConfig
from fedwon.client.link.tasks import training_app
from fedwon.client.training.progress import Cancelled
from fedwon.common.arrays import open_record, write_record
from fedwon.common.codec import TRAFFIC, named
from fedwon.common.config import parse
from fedwon.common.errors import BeyondLimits, ConfigError, TaskFailed
from fedwon.common.flower import host_app, incoming
from fedwon.common.run_config import RunConfig
from fedwon.common.secagg.messages import MaskOrder, Opening, pack
from fedwon.common.secagg.stages import SECURE, UNMASK
from fedwon.common.task_config import TaskConfig


def message(kind="train", name="run.r0001.train.a", codec=None, classes=("bad", "good"), **run) -> Message:
    config = parse(RunConfig, run, "test")
    task = TaskConfig.of(config, run="run", server_round=1, classes=classes)
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord(task.flat())})
    if codec:
        content[TRAFFIC] = named(codec)
    host_app()
    return incoming(content, kind, node_id=1, message_id=name, group_id="1")


class Site:
    """Limits around an app that counts what comes through."""

    def __init__(self, folder, images=(100, 20), batch_size=None, **limits):
        self.now, self.done = 1e9, []
        train, validation = images
        self.held = {"good": {"train": train, "validation": validation, "test": 0}, "worn": {"train": 4}}
        self.limits = Limits(
            parse(LimitsConfig, limits, "client.yaml"), folder, lambda: self.held, batch_size, lambda: self.now
        )
        self.app = self.limits.around(lambda message, _: self.done.append(message.metadata.message_id))

    def ask(self, *arguments, **run):
        self.app(message(*arguments, **run), None)


def test_without_limits_everything_comes_through(tmp_path):
    site = Site(tmp_path)
    site.ask(training={"epochs": 1000, "batch_size": 4096})
    assert len(site.done) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "asked", "said"),
    [
        ({"epochs": 2}, {"training": {"epochs": 3}}, "2 times a round at most.*asked for 3"),
        ({"epochs": 2}, {"training": {"steps": 51, "batch_size": 4}}, "2 times a round at most.*asked for 2.04"),
        ({"least_steps": 14}, {"training": {"batch_size": 8}}, "fewer than 14 steps.*asked for 13"),
        ({"least_steps": 4}, {"training": {"steps": 3}}, "fewer than 4 steps.*asked for 3"),
        ({"least_steps": 6}, {"images": {"max_train": 40}}, "asked for 5, with batches of 8 of 40 images"),
        ({"networks": ["alexnet"]}, {"model": {"name": "digit_cnn"}}, "network `alexnet` only.*for `digit_cnn`"),
        ({"normalizations": ["none"]}, {"method": "fedavg"}, "normalization `none` only.*for `batch"),
        ({"codecs": ["int8", "topk"]}, {"codec": "bf16"}, "codec `int8`, `topk` only.*for `bf16`"),
        ({"codecs": ["int8"]}, {}, "asked for `plain`"),
        ({}, {"training": {"steps": 1, "batch_size": 1}}, "fewer than 8 images.*asked for one of 1"),
        ({}, {"training": {"steps": 1, "batch_size": 7}}, "fewer than 8 images.*asked for one of 7"),
        ({}, {"images": {"max_train": 7}, "training": {"epochs": 9}}, "fewer than 8 images.*asked for one of 7"),
        ({}, {"classes": ("bad", "worn")}, "fewer than 8 images.*asked for one of 3"),
        ({"least_images": 80}, {"training": {"steps": 6}}, "fewer than 52 images.*half of the 104 that it has"),
    ],
)
def test_what_is_beyond_is_given_back_with_the_reason(tmp_path, limits, asked, said):
    site = Site(tmp_path, **limits)
    with pytest.raises(BeyondLimits, match=said):
        site.ask(**asked)
    assert site.done == []
    site.ask("evaluate", **asked)  # which shows no image and costs little
    assert len(site.done) == 1


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({"epochs": 2}, {"training": {"epochs": 2}}),
        ({"epochs": 2}, {"training": {"steps": 50, "batch_size": 4}}),
        ({"least_steps": 13}, {"training": {"batch_size": 8}}),
        ({}, {"training": {"steps": 8, "batch_size": 1}}),
        ({}, {"images": {"max_train": 8}}),
        ({"least_images": 1}, {"training": {"steps": 1, "batch_size": 1}}),
        ({"networks": ["digit_cnn"], "normalizations": ["none"], "codecs": ["int8"]}, {"codec": "int8"}),
    ],
)
def test_what_is_within_comes_through(tmp_path, limits, asked):
    site = Site(tmp_path, **limits)
    site.ask(**asked)
    assert len(site.done) == 1


def test_a_site_without_validation_images_of_its_own_trains_on_fewer(tmp_path):
    site = Site(tmp_path, images=(100, 0), least_steps=11)
    with pytest.raises(BeyondLimits, match="batches of 8 of 80 images"):
        site.ask(images={"validation_fraction": 0.2})


@pytest.mark.parametrize("images", [(6, 1), (1, 0), (2, 0)])
def test_a_site_with_few_images_gives_what_it_has(tmp_path, images):
    site = Site(tmp_path, images=images)
    site.held.pop("worn")
    site.ask()
    assert len(site.done) == 1


def test_its_own_batch_size_is_what_counts(tmp_path):
    Site(tmp_path, batch_size=1, least_steps=100).ask(training={"batch_size": 32})
    with pytest.raises(BeyondLimits):
        Site(tmp_path, least_steps=100).ask(training={"batch_size": 32})


@given(
    images=st.integers(1, 500), batch=st.integers(1, 64), epochs=st.integers(1, 4), most=st.integers(0, 600),
    least=st.integers(1, 600),
)  # fmt: skip
def test_steps_are_those_that_training_takes(tmp_path_factory, images, batch, epochs, most, least):
    taken = 0
    for _ in range(epochs):  # as training goes over them
        left = min(images, most or images)
        while left > 0:
            left, taken = left - batch, taken + 1
    site = Site(tmp_path_factory.getbasetemp(), images=(images, 1), least_steps=least, least_images=1)
    asked = {"training": {"epochs": epochs, "batch_size": batch}, "images": {"max_train": most or None}}
    if taken < least:
        with pytest.raises(BeyondLimits):
            site.ask(**asked)
    else:
        site.ask(**asked)
        assert site.done


def test_rounds_of_a_day_are_counted_over_restarts(tmp_path):
    site = Site(tmp_path, rounds_per_day=2)
    site.ask(name="a")
    site.now += 3600
    site.ask(name="b")
    again = Site(tmp_path, rounds_per_day=2)
    again.now = site.now + 1800
    with pytest.raises(BeyondLimits, match=r"2 rounds a day.*in 22.5 hours"):
        again.ask(name="c")
    again.now += 22.5 * 3600
    again.ask(name="c")
    assert again.done == ["c"]


def test_a_round_that_was_broken_off_goes_on(tmp_path):
    site = Site(tmp_path, rounds_per_day=1)
    interrupted = site.limits.around(fails(Cancelled()))
    with pytest.raises(Cancelled):
        interrupted(message(name="a"), None)
    again = Site(tmp_path, rounds_per_day=1)
    again.ask(name="a")
    assert again.done == ["a"]


def fails(error):
    def _app(*_):
        raise error

    return _app


@pytest.mark.parametrize("ending", [None, TaskFailed("The loss is not finite.")])
def test_a_name_that_is_used_again_is_a_round_more(tmp_path, ending):
    site = Site(tmp_path, rounds_per_day=2)
    app = site.app if ending is None else site.limits.around(fails(ending))
    for _ in range(2):
        with suppress(TaskFailed):
            app(message(name="a"), None)
    with pytest.raises(BeyondLimits, match="2 rounds a day"):
        app(message(name="a"), None)


def test_another_model_is_another_round(tmp_path):
    site, models = Site(tmp_path, rounds_per_day=1), []
    for value in (1.0, 2.0):
        asked = message(name="a")
        path = tmp_path / f"{value}.safetensors"
        write_record(ArrayRecord({"w": Array(np.full(3, value))}), path)
        asked.content["arrays"] = open_record(path)
        models.append(asked)
    stopped = site.limits.around(fails(Cancelled()))
    with pytest.raises(Cancelled):
        stopped(models[0], None)
    with pytest.raises(BeyondLimits, match="1 rounds a day"):
        stopped(models[1], None)


@pytest.mark.parametrize(
    "kind", ["train.default", "evaluate.default", "query.default", "train.other", "query.secagg_unmask2"]
)
def test_a_task_by_another_name_is_refused(tmp_path, kind):
    """Flower's app takes `train.default` for `train`: nothing may reach it that is not looked at."""
    site = Site(tmp_path, least_sum=4)
    with pytest.raises(BeyondLimits, match="takes no task"):
        site.ask(kind)
    assert site.done == []


def test_every_task_that_the_app_answers_has_one_name_here():
    registered = training_app()._registered_funcs
    assert {kind if "." in kind else f"{kind}.default" for kind in KINDS} == set(registered)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": "x"}', b"null"])
def test_a_damaged_count_begins_anew(tmp_path, content):
    (tmp_path / TRAINED).write_bytes(content)
    site = Site(tmp_path, rounds_per_day=1)
    site.ask(name="a")
    with pytest.raises(BeyondLimits):
        site.ask(name="b")


@pytest.mark.parametrize("limits", [{"epochs": 0}, {"rounds_per_day": 0}, {"normalizations": ["x"]}, {"least": 1}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(ConfigError):
        parse(LimitsConfig, limits, "client.yaml")


def with_order(*neighbours):
    asked = message()
    asked.content[SECURE] = pack(MaskOrder("x", neighbours, (b"",) * len(neighbours), 1.0, 1.0, False, 9))
    return asked


def opening(*counted):
    content = RecordDict({SECURE: pack(Opening("x", counted, ()))})
    return incoming(content, f"query.{UNMASK}", node_id=1, message_id="open", group_id="1")


def test_updates_leave_in_sums_of_many_only(tmp_path):
    site = Site(tmp_path, least_sum=4)
    for asked in (with_order("b", "c", "d"), opening("a", "b", "c", "d")):
        site.app(asked, None)
    assert len(site.done) == 2
    for asked, said in ((with_order("b", "c"), "would be of 3"), (opening("a", "b", "c"), "would be of 3")):
        with pytest.raises(BeyondLimits, match=f"sums of 4 sites or more.*{said}"):
            site.app(asked, None)
    with pytest.raises(BeyondLimits, match="asked for a plain one"):
        site.ask()
    assert len(site.done) == 2
