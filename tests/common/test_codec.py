"""Codecs: what comes out is what went in, or as near as promised; what is hostile is refused."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedwon.common.codec import CODECS
from fedwon.common.codec.coding import decode, encode, fits
from fedwon.common.codec.forms import FORMS, INT8, SHARE, bfloat16, widened
from fedwon.common.errors import BrokenFile

LOSSY = [name for name, codec in CODECS.items() if not codec.weights.exact]
FEEDBACK = [name for name, codec in CODECS.items() if codec.feedback]
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
SHAPES = st.one_of(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), st.just((3, 40)))


def record(**arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(ndarray=np.asarray(values)) for name, values in arrays.items()})


def bits(arrays: ArrayRecord) -> dict[str, tuple]:
    found = {name: array.numpy() for name, array in arrays.items()}
    return {name: (values.dtype, values.shape, values.tobytes()) for name, values in found.items()}


def through(values, base, codec: str, seed: str = "1", owed=None):
    encoded = encode(record(w=values), record(w=base), codec, seed, owed)
    return decode(encoded.parts, record(w=base))["w"].numpy(), encoded


def finite(dtype: str, shape, largest: float = 1e4):
    """Arrays of finite numbers; for other types than floats of any."""
    if np.dtype(dtype).kind != "f":
        return hnp.arrays(dtype, shape)
    width = 8 * np.dtype(dtype).itemsize
    elements = st.floats(-largest, largest, width=width, allow_subnormal=False)
    return hnp.arrays(dtype, shape, elements=elements)


@st.composite
def pairs(draw, dtypes=DTYPES, shapes=SHAPES):
    dtype, shape = draw(st.sampled_from(dtypes)), draw(shapes)
    return draw(finite(dtype, shape)), draw(finite(dtype, shape))


@given(pair=pairs(), codec=st.sampled_from(sorted(CODECS)))
def test_shape_and_type_stay_and_the_error_is_bounded(pair, codec):
    values, base = pair
    got, encoded = through(values, base, codec)
    assert (got.dtype, got.shape) == (values.dtype, values.shape)
    exact = all("|bits|" in name for name in encoded.parts)
    if exact:
        assert got.tobytes() == values.tobytes()
    else:
        delta = np.abs(values.astype("f8") - base.astype("f8"))
        assert (np.abs(got.astype("f8") - values.astype("f8")) <= allowed(codec, delta, values, base)).all()


def allowed(codec, delta, values, base):
    """The promised bound, and the rounding of the sums around it."""
    eps = np.finfo(values.dtype).eps if values.dtype != "float64" else np.finfo("f4").eps
    rounding = 4 * eps * (np.abs(values) + np.abs(base) + delta).astype("f8") + np.finfo("f4").tiny
    if codec == "int8":
        rows = delta.reshape(len(delta), -1) if delta.size >= 32 * len(delta) else delta.reshape(1, -1)
        rms = np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
        step = np.maximum(rows.max(axis=1, keepdims=True) / 127, rms / 8) * (1 + 1e-5)
        return np.broadcast_to(step, rows.shape).reshape(delta.shape) + rounding
    if codec == "topk":
        return np.maximum(np.sort(delta.reshape(-1))[-int(np.ceil(SHARE * delta.size))], delta * 2**-8) + rounding
    return delta * {"bf16": 2**-8, "fp16": 2**-11}[codec] + rounding + 2**-24


@given(pair=pairs(shapes=st.just((3, 40)), dtypes=("float32", "float16", "float64")), data=st.data())
def test_what_is_not_finite_arrives_as_it_is(pair, data):
    values, base = pair
    place = data.draw(st.integers(0, values.size - 1))
    values.reshape(-1)[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    for codec in CODECS:
        got, _ = through(values, base, codec, owed=record(w=np.ones_like(values)))
        assert got.tobytes() == values.tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_largest_numbers_do_not_become_infinite(codec, dtype):
    largest = np.finfo(dtype).max
    values, base = np.full((2, 64), largest, dtype), np.full((2, 64), -largest, dtype)
    got, _ = through(values, base, codec)
    assert np.isfinite(got).all()
    values[0, 0] = -largest
    assert np.isfinite(through(values, base, codec)[0]).all()


@pytest.mark.parametrize("codec", LOSSY)
def test_the_smallest_numbers_are_no_trouble(codec):
    smallest = np.float32(1e-45)
    got, _ = through(np.full((2, 64), smallest), np.zeros((2, 64), np.float32), codec)
    assert np.abs(got).max() <= smallest


@pytest.mark.parametrize("codec", LOSSY)
def test_vectors_and_integers_are_exact(codec):
    rng = np.random.default_rng(1)
    base = record(bias=np.zeros(50, "f4"), gain=np.ones((50, 1), "f4"), count=np.int64(3), none=np.zeros((0, 4), "f4"))
    moved = ArrayRecord(
        {
            name: Array(ndarray=np.asarray(a.numpy() + rng.normal(size=a.numpy().shape).astype(a.dtype)))
            for name, a in base.items()
        }
    )
    encoded = encode(moved, base, codec, "1")
    assert bits(decode(encoded.parts, base)) == bits(moved)
    assert list(encoded.lost) == []


def weights(seed: int = 0, shape=(6, 64)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def size(encoded) -> int:
    return sum(array.numpy().nbytes for array in encoded.parts.values())


@pytest.mark.parametrize(("codec", "times"), [("fp32", 1), ("bf16", 2), ("fp16", 2), ("int8", 3.7), ("topk", 12)])
def test_so_many_times_fewer_bytes_before_packing(codec, times):
    values = weights()
    assert values.nbytes >= times * size(through(values, weights(1), codec)[1])


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_task_gives_the_same_bits_and_another_one_others(codec):
    values, base = weights(), weights(1)
    first, again, other = (bits(through(values, base, codec, seed)[1].parts) for seed in ("1", "1", "2"))
    assert first == again
    assert (first == other) == (codec != "int8")


def test_rounding_is_right_in_the_mean():
    values, base = weights(shape=(2, 64)), np.zeros((2, 64), np.float32)
    mean = np.mean([through(values, base, "int8", str(seed))[0] for seed in range(400)], axis=0)
    step = np.sqrt(np.square(values).mean(axis=1, keepdims=True)) / 8
    assert (np.abs(mean - values) < 0.13 * step).all()  # five standard errors
    rounded = np.round(values / step) * step
    assert np.abs(rounded - values).max() > 0.4 * step.min()  # rounding to nearest would not do


@pytest.mark.parametrize("codec", FEEDBACK)
def test_what_was_lost_comes_later(codec):
    """The sum of what arrived is the sum of what was sent, but for what the last one owes."""
    base, owed = np.zeros((4, 64), np.float32), None
    sent, arrived = np.zeros_like(base), np.zeros_like(base)
    for step in range(60):
        values = weights(step % 7, base.shape)
        got, encoded = through(values, base, codec, str(step), owed)
        sent, arrived, owed = sent + values, arrived + got, encoded.lost
        np.testing.assert_allclose(arrived + owed["w"].numpy(), sent, atol=1e-3)
    assert np.abs(sent - arrived).max() < np.abs(sent).max()


@pytest.mark.parametrize("codec", sorted(set(CODECS) - set(FEEDBACK)))
def test_others_owe_nothing(codec):
    values, base = weights(), weights(1)
    got, encoded = through(values, base, codec, owed=record(w=np.full_like(values, 100)))
    assert list(encoded.lost) == []
    np.testing.assert_allclose(got, values, atol=0.05)


def test_a_debt_of_another_shape_is_forgotten():
    values, base = weights(), weights(1)
    got, _ = through(values, base, "int8", owed=record(w=np.ones((2, 2), np.float32)))
    np.testing.assert_allclose(got, values, atol=0.3)


@given(hnp.arrays("float32", 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@example(np.array([1.0, 1.00390625, 1.01171875, 3.3895314e38, -0.0], np.float32))
def test_bfloat16_is_rounded_as_torch_does(values):
    import torch

    assert bits(record(w=widened(bfloat16(values)))) == bits(
        record(w=torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy())
    )


class TestFits:
    base = record(w=np.zeros((2, 3), np.float32), n=np.int64(1))

    @pytest.mark.parametrize(
        ("update", "fit"),
        [
            (record(w=np.ones((2, 3), np.float32)), True),
            (record(), True),
            (record(w=np.ones((3, 2), np.float32)), False),
            (record(w=np.ones((2, 3), np.float64)), False),
            (record(v=np.ones((2, 3), np.float32)), False),
        ],
    )
    def test_names_shapes_and_types(self, update, fit):
        assert fits(update, self.base) is fit


class TestHostile:
    """Whatever comes, no more is made than the base's tensors, and what does not fit is refused."""

    base = record(w=np.zeros((6, 64), np.float32), b=np.zeros(3, np.float32))

    @given(
        key=st.sampled_from(["w", "b", "x", "w|int8", "||", "w|bits|planes|x"]).flatmap(
            lambda name: st.sampled_from([*sorted(FORMS), "", "none"]).flatmap(
                lambda form: st.sampled_from(["planes", "steps", "scale", "gaps", "x"]).map(
                    lambda part: f"{name}|{form}|{part}"
                )
            )
        ),
        array=st.sampled_from(["uint8", "int8", "float32", "bool"]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=400))
        ),
        codec=st.sampled_from(sorted(CODECS)),
    )
    @settings(max_examples=200)
    def test_any_part_replaced_or_added(self, key, array, codec):
        parts = encode(record(w=weights(), b=np.ones(3, np.float32)), self.base, codec, "1").parts
        parts[key] = Array(ndarray=np.asarray(array))
        try:
            made = {name: values.numpy() for name, values in decode(parts, self.base).items()}
        except BrokenFile:
            return
        for name, values in made.items():
            assert (values.dtype, values.shape) == (self.base[name].numpy().dtype, self.base[name].numpy().shape)

    @given(gaps=hnp.arrays("uint32", st.integers(0, 400)), data=st.data())
    def test_places_outside_the_tensor(self, gaps, data):
        gaps = gaps if data.draw(st.booleans()) else gaps % 3
        planes = np.ascontiguousarray(gaps.view(np.uint8).reshape(gaps.size, 4).T)
        parts = {"w|sparse|gaps": planes, "w|sparse|planes": np.ones((2, gaps.size), np.uint8)}
        decoded = decode(record(**parts), self.base)["w"]
        inside = (gaps > 0).all() and gaps.astype("i8").sum() <= 6 * 64
        if inside:
            assert np.count_nonzero(decoded.numpy()) == gaps.size
        else:
            with pytest.raises(BrokenFile):
                decoded.numpy()

    @pytest.mark.parametrize("scale", [np.nan, np.inf, 3e38])
    def test_a_scale_that_is_none_is_left_for_admission_to_see(self, scale):
        parts = {"w|int8|steps": np.full((6, 64), 127, np.int8), "w|int8|scale": np.full(6, scale, np.float32)}
        assert not np.isfinite(decode(record(**parts), self.base)["w"].numpy()).any()

    def test_a_tensor_that_is_missing_is_missing(self):
        parts = encode(record(b=np.ones(3, np.float32)), self.base, "int8", "1").parts
        assert list(decode(parts, self.base)) == ["b"]

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            (["x|bits|planes"], "has not got"),
            (["w|bits|planes", "w|int8|steps"], "twice"),
            (["w"], "cannot read"),
            (["w|later|part"], "cannot read"),
        ],
    )
    def test_it_says_what_is_wrong(self, keys, says):
        with pytest.raises(BrokenFile, match=says):
            decode(record(**dict.fromkeys(keys, np.zeros(3, np.uint8))), self.base)


def test_an_empty_tensor_in_a_form_that_ours_is_never_written_in():
    base = np.zeros((0, 4), "f4")
    parts = {"steps": np.zeros((1, 0), "i1"), "scale": np.ones(1, "f4")}
    assert INT8.decode(parts, base).shape == base.shape
