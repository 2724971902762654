"""An update as it leaves the site: in the codec that the server asked for, with what earlier updates still owe.

What a lossy codec leaves out of an update is kept here and added to the next one (error feedback: Seide et al. 2014,
1-bit SGD; Karimireddy et al. 2019, arXiv:1901.09847). It lies with the site's own layers, a record a round, put on the
disk before the update counts as finished, and round r takes the newest before r: whatever is done again after a crash
starts from the same debt, and gives the same bits.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedwon.client.training import local_state
from fedwon.common.codec import PLAIN, TRAFFIC, codec_of, named
from fedwon.common.codec.coding import encode, fits
from fedwon.common.task_config import TaskConfig

ARRAYS = "arrays"


def encoded(
    update: ArrayRecord, asked: RecordDict, state: RecordDict, task: TaskConfig, site: str
) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return the records of a reply that carry the update.

    Args:
        update: what the site shares of the trained network.
        asked: the message, with the model that was trained.
        state: Flower's state of the site; what the update lacks is kept in it.
        task: the run and the round.
        site: the site's name; rounding at random follows from it, the round and the run's seed.
    """
    codec, base = codec_of(asked), asked.array_records[ARRAYS]
    if codec == PLAIN or not fits(update, base):  # what does not fit, admission refuses by name
        return {ARRAYS: update}
    owed = local_state.recall(state, task.run, before=task.round, kind=local_state.FEEDBACK)
    parts, lost = encode(update, base, codec, f"{task.seed}/{site}/{task.round}", owed)
    if lost:
        local_state.remember(state, task.run, task.round, lost, local_state.FEEDBACK)
    return {ARRAYS: parts, TRAFFIC: named(codec)}
