"""Model files: ours and the safetensors library's are the same thing, and nothing is read before it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file
from torch import nn

from fedwon.common.arrays import DTYPES, StoredArray, StoredRecord, open_record, read_header, write_record
from fedwon.common.errors import BrokenFile, DiskFull, ModelMismatch, StorageError
from fedwon.common.files import sha256_file
from fedwon.common.network_state import check_same, load_into, record_of

ELEMENTS = sorted(DTYPES.values())


def record(arrays) -> ArrayRecord:
    made = ArrayRecord()
    for name, values in arrays.items():
        made[name] = Array(ndarray=np.asarray(values))
    return made


def one_of_each() -> dict[str, np.ndarray]:
    arrays = {f"{name}.weight": np.arange(6).reshape(2, 3).astype(name) for name in ELEMENTS}
    return {**arrays, "scalar": np.float32(2.5), "nothing": np.empty((0, 4), np.float32), "a": np.ones(3)}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_same(left, right) -> None:
    assert list(left) == list(right)
    for name in left:
        found, wanted = np.asarray(left[name]), np.asarray(right[name])
        assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes()), name


def numpy_of(stored) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in stored.items()}


def test_round_trip(tmp_path):
    arrays = one_of_each()
    blob = write_record(record(arrays), tmp_path / "m.safetensors", {"fedwon": "text"})
    assert (blob.digest, blob.size) == (sha256_file(blob.path), blob.path.stat().st_size)
    stored = open_record(blob.path)
    assert stored.blob == blob
    assert stored.metadata["fedwon"] == "text"
    assert_same(numpy_of(stored), arrays)


def test_the_order_is_kept_where_sorting_would_change_it(tmp_path):
    names = ["z", "b", "a", "z2"]
    write_record(record({name: np.zeros(2) for name in names}), tmp_path / "m")
    assert list(open_record(tmp_path / "m")) == names


def test_the_library_reads_ours(tmp_path):
    arrays = one_of_each()
    write_record(record(arrays), tmp_path / "m", {"k": "v"})
    found = load_file(tmp_path / "m")
    assert_same({name: found[name] for name in arrays}, arrays)


def test_we_read_the_librarys(tmp_path):
    arrays = {name: np.array(values) for name, values in one_of_each().items()}
    save_file(arrays, tmp_path / "m", metadata={"format": "np"})
    stored = open_record(tmp_path / "m")
    assert stored.metadata == {"format": "np"}
    assert_same({name: stored[name].numpy() for name in arrays}, arrays)


@given(
    st.dictionaries(
        st.text("abc.w1", min_size=1, max_size=8),
        st.sampled_from(ELEMENTS).flatmap(
            lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
        ),
        max_size=6,
    )
)
def test_any_arrays_come_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("any") / "m"
    write_record(record(arrays), path)
    assert_same(numpy_of(open_record(path)), arrays)
    library = load_file(path)
    assert_same({name: library[name] for name in arrays}, arrays)


def test_flower_sees_an_ordinary_record(tmp_path):
    arrays = one_of_each()
    write_record(record(arrays), tmp_path / "m")
    stored = open_record(tmp_path / "m")
    assert isinstance(stored, ArrayRecord)
    copy = ArrayRecord({name: Array(a.dtype, tuple(a.shape), a.stype, a.data) for name, a in stored.items()})
    assert_same(numpy_of(copy), arrays)
    assert_same(dict(enumerate(stored.to_numpy_ndarrays())), dict(enumerate(arrays.values())))
    torched = stored.to_torch_state_dict()
    assert torched["scalar"].shape == ()


def test_writing_what_is_stored_gives_the_same_bytes(tmp_path):
    first = write_record(record(one_of_each()), tmp_path / "1", {"k": "v"})
    second = write_record(open_record(tmp_path / "1"), tmp_path / "2", {"k": "v"})
    assert first.digest == second.digest


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    tensor = np.zeros(2_000_000)
    write_record(record({f"t{i}": tensor for i in range(4)}), tmp_path / "m")
    open_files = names_in(Path("/proc/self/fd"))
    tracemalloc.start()
    try:
        stored = open_record(tmp_path / "m", digest="known")
        assert names_in(Path("/proc/self/fd")) == open_files
        mapped = [array.map() for array in stored.values()]
        assert not mapped[0].flags.writeable
        assert tracemalloc.get_traced_memory()[1] < tensor.nbytes / 4
        stored["t0"].numpy()
        assert tensor.nbytes <= tracemalloc.get_traced_memory()[1] < 2 * tensor.nbytes
    finally:
        tracemalloc.stop()
    del mapped
    assert names_in(Path("/proc/self/fd")) == open_files


def test_a_digest_that_is_known_is_not_computed(tmp_path):
    write_record(record({"a": np.zeros(1)}), tmp_path / "m")
    assert open_record(tmp_path / "m", digest="known").blob.digest == "known"


def test_a_file_that_became_shorter(tmp_path):
    write_record(record({"a": np.zeros(1000)}), tmp_path / "m")
    stored = open_record(tmp_path / "m")
    os.truncate(tmp_path / "m", 500)
    with pytest.raises(BrokenFile, match="cannot be read"):
        stored["a"].numpy()


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "m"
    write_record(record({"a": np.zeros(3)}), path)
    before = path.read_bytes()

    class Broken(StoredArray):
        def map(self):
            raise BrokenFile("gone")

    bad = record({"a": np.zeros(3)})
    bad["b"] = Broken(path, open_record(path)["a"].slot)
    with pytest.raises(BrokenFile):
        write_record(bad, path)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == {"m"}


def test_an_element_type_that_no_file_may_hold(tmp_path):
    with pytest.raises(ModelMismatch, match="`a` has element type complex64"):
        write_record(record({"a": np.zeros(1, np.complex64)}), tmp_path / "m")
    assert names_in(tmp_path) == set()


def test_a_full_disk_leaves_what_was_there(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        path = mount / "m"
        blob = write_record(record({"a": np.zeros(1000)}), path)
        with pytest.raises(DiskFull, match="No space left"):
            write_record(record({"a": np.zeros(100_000)}), path)
        assert sha256_file(path) == blob.digest
        assert names_in(mount) == {"m"}
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="There is no file"):
        open_record(tmp_path / "m")
    with pytest.raises(StorageError):
        open_record(tmp_path)


# ---- hostile files


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(*offsets, dtype="U8", shape=None) -> dict:
    return {"dtype": dtype, "shape": [offsets[1] - offsets[0]] if shape is None else shape, "data_offsets": [*offsets]}


HOSTILE = {
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"x" * 6),
    "gap": ({"a": entry(0, 2), "b": entry(4, 6)}, b"x" * 6),
    "does not begin at 0": ({"a": entry(2, 6)}, b"x" * 6),
    "cut": ({"a": entry(0, 8)}, b"x" * 7),
    "too long": ({"a": entry(0, 8)}, b"x" * 9),
    "beyond the end": ({"a": entry(0, 2**39)}, b"x" * 9),
    "size is not the shape's": ({"a": entry(0, 8, shape=[7])}, b"x" * 8),
    "size is not the type's": ({"a": entry(0, 8, dtype="F32", shape=[8])}, b"x" * 8),
    "negative shape": ({"a": entry(0, 8, shape=[-2, -4])}, b"x" * 8),
    "negative offset": ({"a": entry(-8, 0, shape=[8])}, b"x" * 8),
    "backwards": ({"a": entry(8, 0, shape=[8])}, b"x" * 8),
    "float offsets that cancel": (
        {"a": entry(0, 1), "b": {"dtype": "U8", "shape": [], "data_offsets": [1.0, 0.0]}},
        b"",
    ),
    "offsets of text": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": ["a", "b"]}}, b"x"),
    "offsets of true": ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"x"),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"x"),
    "shape is text": ({"a": {"dtype": "U8", "shape": "1", "data_offsets": [0, 1]}}, b"x"),
    "shape is a number": ({"a": {"dtype": "U8", "shape": 1, "data_offsets": [0, 1]}}, b"x"),
    "shape is NaN": (b'{"a": {"dtype": "U8", "shape": [NaN], "data_offsets": [0, 1]}}', b"x"),
    "offset is infinite": (b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, Infinity]}}', b"x"),
    "a huge number": (b'{"a": {"dtype": "U8", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 1]}}', b"x"),
    "many large dimensions": ({"a": entry(0, 1, shape=[2**62] * 50_000)}, b"x"),
    "many dimensions of 1": ({"a": entry(0, 1, shape=[1] * 100)}, b"x"),
    "empty, yet large": ({"a": entry(0, 0, shape=[0, 2**62, 2**62])}, b""),
    "unknown type": ({"a": entry(0, 1, dtype="F8_E5M2")}, b"x"),
    "type is a list": ({"a": entry(0, 1, dtype=["U8"])}, b"x"),
    "entry is a list": ({"a": [1]}, b"x"),
    "entry is text": ({"a": "U8"}, b"x"),
    "entry is null": ({"a": None}, b"x"),
    "no offsets": ({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "header is a list": ([1, 2], b""),
    "header is null": (b"null", b""),
    "header is not JSON": (b"{'a': 1}", b""),
    "header is not text": (b"\xff\xfe{}", b""),
    "header nests": (b"[" * 100_000, b""),
    "metadata nests": (b'{"__metadata__": ' + b"[" * 100_000 + b"}", b""),
    "metadata is a list": ({"__metadata__": ["x"]}, b""),
    "metadata holds numbers": ({"__metadata__": {"x": 1}}, b""),
    "a name of control characters": ({"\x1b[31m": entry(0, 1)}, b"x"),
    "a name that is no text": (b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', b"x"),
    "a name as long as a page": ({"a" * 5000: entry(0, 1)}, b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_broken_files(tmp_path, name):
    path = raw(tmp_path / "m", *HOSTILE[name])
    with pytest.raises(BrokenFile) as caught:
        open_record(path)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("content", [b"", b"1234567", b"\0" * 8, b"\2" + b"\0" * 7 + b"{", b"\xff" * 8 + b"{}"])
def test_files_without_a_whole_header(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(BrokenFile):
        read_header(tmp_path / "m")


def test_every_cut_of_a_file_is_noticed(tmp_path):
    write_record(record({"a": np.zeros(3, np.int8), "b": np.zeros((2, 2), np.int16)}), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(BrokenFile):
            open_record(tmp_path / "cut")


@given(st.binary(max_size=60), st.integers(0, 80))
def test_no_bytes_do_anything_else(tmp_path_factory, junk, length):
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(length.to_bytes(8, "little") + junk)
    try:
        stored = open_record(path)
    except BrokenFile:
        return
    assert sum(array.numpy().nbytes for array in stored.values()) <= len(junk)


def test_a_huge_declared_length_costs_no_memory(tmp_path):
    (tmp_path / "m").write_bytes((2**40).to_bytes(8, "little") + b"{}" * 50)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenFile):
            read_header(tmp_path / "m")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_over_the_limit_is_not_parsed(tmp_path):
    raw(tmp_path / "m", b'{"a": ' + b" " * 5_000_000 + b"}")
    with pytest.raises(BrokenFile, match="missing or cut"):
        read_header(tmp_path / "m")


@pytest.mark.parametrize("order", ["[", '"ab"', "[1, 2]", '["a"]', '["a", "a"]', "[" * 100_000, "null"])
def test_an_order_of_somebody_else_does_not_matter(tmp_path, order):
    header = {"__metadata__": {"fedwon.order": order}, "b": entry(0, 1), "a": entry(1, 2)}
    assert list(open_record(raw(tmp_path / "m", header, b"xy"))) == ["b", "a"]


# ---- models


class Net(nn.Sequential):
    def __init__(self, width=3):
        super().__init__(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_a_model_and_back(tmp_path):
    model, other = Net(), Net()
    model[1].num_batches_tracked += 5
    write_record(record_of(model), tmp_path / "m")
    load_into(other, open_record(tmp_path / "m"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_record_is_a_copy():
    model = Net()
    taken = record_of(model)
    before = taken["0.bias"].numpy().copy()
    with torch.no_grad():
        model[0].bias += 1
    assert np.array_equal(taken["0.bias"].numpy(), before)


def test_the_message_names_what_does_not_fit():
    found = {name: tuple(array.shape) for name, array in record_of(Net(4)).items()}
    del found["0.bias"]
    found["head.bias"] = (1,)
    with pytest.raises(ModelMismatch) as caught:
        check_same({name: tuple(t.shape) for name, t in Net().state_dict().items()}, found, "The file")
    text = caught.value.message
    assert text.startswith("The file does not fit the network: missing 0.bias; unknown head.bias; other shape: ")
    assert "0.weight [4, 2] in place of [3, 2]" in text


def test_the_message_stops_after_five():
    with pytest.raises(ModelMismatch, match="missing t0, t1, t2, t3, t4 and more"):
        check_same({f"t{i}": () for i in range(9)}, {})


@pytest.mark.parametrize("change", [lambda r: r.pop("0.bias"), lambda r: r.update({"x": r["0.bias"]})])
def test_a_model_does_not_take_other_tensors(change):
    taken = record_of(Net())
    change(taken)
    model = Net()
    before = model[0].weight.clone()
    with pytest.raises(ModelMismatch):
        load_into(model, taken)
    assert torch.equal(model[0].weight, before)


def test_reading_records_does_not_need_torch():
    code = "import sys, fedwon.common.arrays; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_stored_record_tells_its_file(tmp_path):
    blob = write_record(record({"a": np.zeros(1)}), tmp_path / "m")
    assert isinstance(open_record(tmp_path / "m"), StoredRecord)
    assert open_record(tmp_path / "m").blob.path == blob.path
