"""Decoders of files: tensors, models, packed updates, differences, images, backups, the site's journal."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord

from fedwon.client.images.npz import read_array, read_labels
from fedwon.client.link.journal import _read_header
from fedwon.common.arrays import Blob, StoredRecord, open_record, write_record
from fedwon.common.codec import CODECS
from fedwon.common.codec.coding import decode, encode
from fedwon.common.errors import BrokenFile
from fedwon.common.model_file import describe, network, read_model, trained_network
from fedwon.common.network_state import record_of
from fedwon.common.packing import ZSTD, packed, unpack
from fedwon.common.pixels import Unreadable, read_pixels
from fedwon.common.rebuilding import OF_MODEL, rebuild
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.server.admission.rules import Landed, refuse
from fedwon.server.backups.restore import unpack as unpack_backup

LIMIT = 2**20
"""Bytes that a packed file may hold here."""


@cache
def scratch() -> Path:
    """A folder of this process, in memory where the system has such."""
    shm = Path("/dev/shm")
    made = tempfile.TemporaryDirectory(prefix="fedwon-fuzz-", dir=shm if os.access(shm, os.W_OK) else None)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def on_disk(data: bytes, name: str = "input") -> Path:
    path = scratch() / name
    path.write_bytes(data)
    return path


def small() -> ArrayRecord:
    rng = np.random.default_rng(1)
    values = {"conv.weight": rng.normal(size=(4, 40)).astype("f4"), "bias": np.ones(4, "f4"), "n": np.int64(3)}
    return ArrayRecord({name: Array(ndarray=np.asarray(value)) for name, value in values.items()})


@cache
def base() -> StoredRecord:
    path = scratch() / "base.safetensors"
    return open_record(path, digest=write_record(small(), path, {"a": "b"}).digest)


def written(record: ArrayRecord, metadata: dict[str, str] | None = None) -> bytes:
    path = scratch() / "seed"
    write_record(record, path, metadata)
    return path.read_bytes()


def zstd(data: bytes) -> bytes:
    return b"".join(packed([data]))


def read_all(record: ArrayRecord) -> None:
    for array in record.values():
        array.numpy()


def tensors(data: bytes) -> None:
    record = open_record(on_disk(data))
    read_all(record)
    refuse(Landed(record, {"num-examples": 1, **dict.fromkeys(("validation-correct", "validation-examples"), 1),
                           "validation-loss": 0.5}), base())  # fmt: skip


def tensor_seeds() -> Iterator[bytes]:
    yield written(small(), {"a": "b"})
    yield written(ArrayRecord({"none": Array(ndarray=np.zeros((0, 4), "f2"))}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}).encode()
    yield struct.pack("<Q", len(header)) + header


def model(data: bytes) -> None:
    task, record = read_model(on_disk(data))
    trained_network(task, record)


def model_seeds() -> Iterator[bytes]:
    run = RunConfig.model_validate({"model": {"width": 0.01}, "images": {"size": 8, "channels": 1}})
    task = TaskConfig.of(run, run="run", server_round=1, classes=("bad", "good"))
    yield written(record_of(network(task)), describe(task))
    yield written(small(), describe(task))
    wide = task.model_copy(update={"images": task.images.model_copy(update={"size": 2048})})
    yield written(ArrayRecord(), describe(wide))


def codec(data: bytes) -> None:
    read_all(decode(open_record(on_disk(data)), base()))


def codec_seeds() -> Iterator[bytes]:
    for name in CODECS:
        yield written(encode(small(), base(), name, "1").parts)


def packing(data: bytes) -> None:
    path = unpack(on_disk(data), scratch() / "unpacked", LIMIT)
    assert path.stat().st_size <= LIMIT


def packing_seeds() -> Iterator[bytes]:
    yield zstd(b"so many bytes" * 40)
    yield zstd(bytes(64 * LIMIT))  # a bomb: a kilobyte that unpacks to 64 MiB


def differences(data: bytes) -> None:
    delta = Blob(on_disk(data, "delta.part"), hashlib.sha256(data).hexdigest(), len(data), ZSTD)
    rebuild(delta, base(), scratch() / "rebuilt", LIMIT)


def difference_seeds() -> Iterator[bytes]:
    yield zstd(written(encode(small(), base(), "fp32", "1").parts, {OF_MODEL: json.dumps({"a": "b"})}))


def journal(data: bytes) -> None:
    _read_header(on_disk(hashlib.sha256(data).digest() + data))
    _read_header(on_disk(data))


def journal_seeds() -> Iterator[bytes]:
    yield pb.SubmitHeader(task_id="run.r0001.train.line-1", seconds=2.5).SerializeToString()


def npz(data: bytes) -> None:
    path = on_disk(data, "images.npz")
    read_labels(path)
    read_array(path, "images")


def npz_seeds() -> Iterator[bytes]:
    for labels in (np.arange(3), np.array(["a", "b", "c"])):
        file = io.BytesIO()
        np.savez_compressed(file, images=np.zeros((3, 2, 2), "u1"), labels=labels)
        yield file.getvalue()


def picture(data: bytes) -> None:
    try:
        read_pixels(on_disk(data))
    except Unreadable as error:  # what a site makes of it: the file is named and left out
        raise BrokenFile(str(error)) from None


def picture_seeds() -> Iterator[bytes]:
    from PIL import Image

    for kind in ("PNG", "BMP", "GIF", "JPEG", "TIFF"):
        file = io.BytesIO()
        Image.new("RGB", (4, 3), (1, 2, 3)).save(file, kind)
        yield file.getvalue()


def backup(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        unpack_backup(on_disk(data), Path(folder))


def backup_seeds() -> Iterator[bytes]:
    content = b"database"
    listed = {"fedwon.db": hashlib.sha256(content).hexdigest()}
    manifest = json.dumps({"format": 1, "version": "0.1.0", "files": listed}).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:") as archive:
        for name, data in (("fedwon.db", content), ("backup.json", manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    yield file.getvalue().rstrip(b"\0") + bytes(1024)


DECODERS: dict[str, tuple[Callable[[bytes], object], Callable[[], Iterable[bytes]]]] = {
    "tensors": (tensors, tensor_seeds),
    "model": (model, model_seeds),
    "codec": (codec, codec_seeds),
    "packing": (packing, packing_seeds),
    "differences": (differences, difference_seeds),
    "journal": (journal, journal_seeds),
    "npz": (npz, npz_seeds),
    "picture": (picture, picture_seeds),
    "backup": (backup, backup_seeds),
}
