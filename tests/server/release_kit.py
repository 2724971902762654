"""Runs to make releases of, without a federation."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import torch
from PIL import Image

from fedwon.common.model_file import network
from fedwon.common.network_state import record_of
from fedwon.common.release import MANIFEST, SIGNATURE, Manifest, sign
from fedwon.common.run_config import RunConfig
from fedwon.server.releases.shelves import FOLDER
from fedwon.server.runs.run import Run
from fedwon.server.store import MetricRow, Site, TaskRow, now
from tests.server.server_kit import CLASSES, make_home, small_run


def make_run(home, *, rounds=2, config: RunConfig | None = None, classes=CLASSES) -> Run:
    """A run of committed rounds, each with other weights, that site `left` did better and better on."""
    config = config or small_run(classes=classes, rounds=rounds)
    run = Run.create(home.store, home.folder, config, classes)
    with home.store.session() as session:
        if session.query(Site).count() == 0:
            counts = {name: {"train": 8, "validation": 2, "test": 0} for name in classes}
            session.add(Site(name="left", expires=now(), data=counts))
    for number in range(1, rounds + 1):
        commit(run, number, correct=number)
    return run


def commit(run: Run, number: int, *, correct: int) -> None:
    torch.manual_seed(number)
    task = run.task(number).model_copy(update={"seed": number})
    run.commit(number, record_of(network(task)), seconds=1.0, sites=["left"])
    values = {"validation-correct": correct, "validation-examples": 4, "validation-loss": 0.5}
    with run.store.session() as session:
        session.add_all(MetricRow(run=run.id, round=number, site="left", key=k, value=v) for k, v in values.items())
        session.add(TaskRow(id=f"{run.id}-{number}", run=run.id, round=number, site="left", kind="train", state="x"))


def shelve(home, run: Run, name: str, *, correct: int = 3):
    """A signed release whose model is no network: for what only names, lists and checks releases."""
    place = home.folder / FOLDER / name
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"no network")
    task = run.task(1)
    score = {"part": "validation", "correct": correct, "examples": 4, "accuracy": correct / 4, "loss": 0.5}
    manifest = Manifest(
        format=1,
        name=name,
        federation=home.config.federation,
        made=now().isoformat(),
        run=run.id,
        round=1,
        method=run.config.method,
        checkpoint="0" * 64,
        configuration="0" * 64,
        versions={},
        previous=None,
        classes=run.classes,
        preprocessing=task.images,
        task=task.model_dump(mode="json"),
        metrics={"left": score},
        data={},
        parity={},
        files={"model.onnx": {"sha256": hashlib.sha256(b"no network").hexdigest(), "size": 10}},
    )
    content = manifest.model_dump_json().encode()
    (place / MANIFEST).write_bytes(content)
    (place / SIGNATURE).write_bytes(sign(content, home.authority.key))
    return place


def shelve_again(home, release, name: str) -> None:
    """The same release under another name, signed as well."""
    place = shutil.copytree(release.folder, home.folder / FOLDER / name)
    content = release.manifest.model_copy(update={"name": name, "made": now().isoformat()}).model_dump_json().encode()
    (place / MANIFEST).write_bytes(content)
    (place / SIGNATURE).write_bytes(sign(content, home.authority.key))


def photographs(folder, count=12, size=(40, 30)):
    """A folder of images that are no noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for number in range(count):
        ramp = np.linspace(0, 255, size[0])[None, :, None] * rng.uniform(0.2, 1, (size[1], 1, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"part-{number:02}.png")
    return folder


__all__ = ["CLASSES", "commit", "make_home", "make_run", "photographs", "shelve", "shelve_again"]
