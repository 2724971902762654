"""Codecs: how the tensors of an update, or of a new global model, are written so that fewer bytes travel.

What a codec makes is again a Flower `ArrayRecord`, of plain small arrays that any link can carry; how they are then
packed into a file is the link's matter (`fedwon.common.packing`). Each side needs the model that the sender started
from. A codec is a form for weights; everything else travels exact: integers, vectors (biases, gains, what normalization
layers learn and count, a hundredth of the bytes, in which a variance must not turn negative), and whatever is not
finite, so that the receiver sees it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from flwr.app import ConfigRecord, RecordDict

from fedwon.common.codec.forms import BF16, BITS, FP16, INT8, SPARSE, Form

Up = Literal["plain", "fp32", "bf16", "fp16", "int8", "topk"]
Down = Literal["plain", "fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class Codec:
    """One way to write all tensors of a record.

    Attributes:
        weights: the form of tensors that may lose something.
        feedback: what an update lost is added to the next one, so that nothing is lost for good.
    """

    weights: Form
    feedback: bool = False


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "fp32": Codec(BITS),
        "bf16": Codec(BF16),
        "fp16": Codec(FP16),
        "int8": Codec(INT8, feedback=True),
        "topk": Codec(SPARSE, feedback=True),
    }
)
"""All codecs by name; `plain` is none of them: arrays as they are, as every version understands them."""

PLAIN: Final = "plain"
TRAFFIC: Final = "traffic"
"""Name of the record in a message that asks for a codec, and in a reply that was written in one."""
_CODEC = "codec"


def named(codec: str) -> ConfigRecord:
    """Return the record that names a codec; peers that do not know it pass it over and send plain arrays."""
    return ConfigRecord({_CODEC: codec})


def codec_of(content: RecordDict) -> str:
    """Return the codec that a message asks for or a reply is written in; `plain` where it names none of ours."""
    codec = content.config_records.get(TRAFFIC, ConfigRecord()).get(_CODEC)
    return codec if isinstance(codec, str) and codec in CODECS else PLAIN


if {PLAIN, *CODECS} != set(get_args(Up)):  # the type and the table must not drift apart
    raise AssertionError(set(CODECS) ^ set(get_args(Up)))
