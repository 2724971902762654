"""Figures as TensorBoard's event files: a folder for each run, a file in it for each time that the server wrote.

TensorBoard's own record format and messages are used, not its (nor torch's) writer: those look for TensorFlow and
import all of it where it is installed, write in a thread of their own, and hide an error until the next call.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fedwon.server.writers.config import TensorboardConfig
from fedwon.server.writers.figures import RoundFigures, RunFacts

CONFIGURATION, ENDED = "configuration", "ended"


class TensorboardWriter:
    """Writes event files.

    Args:
        config: where to.
        root: the server's folder.
    """

    name = "tensorboard"

    def __init__(self, config: TensorboardConfig, root: Path) -> None:
        self._folder = root.resolve() / config.folder
        self.place = str(self._folder)
        self._file: IO[bytes] | None = None

    def begin(self, facts: RunFacts, reference: str, done: int) -> str:
        """Begin a file; readers forget what earlier ones have of later rounds, which may be there in parts."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self.close()
        folder = self._folder / facts.id
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _new_file(folder)
        self._add(file_version="brain.Event:2")
        if reference:
            self._add(step=done + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            table = ["| setting | value |", "|---|---|"]
            table += [f"| {key} | `{value}` |" for key, value in sorted(facts.parameters.items())]
            self._add(step=0, summary=_text(CONFIGURATION, "\n".join(table)))
        self._flush()
        return facts.id

    def write(self, figures: RoundFigures) -> None:
        """Write a round."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=value) for key, value in figures.values.items()]
        self._add(at=figures.at.timestamp(), step=figures.number, summary=Summary(value=values))
        self._flush()

    def end(self, facts: RunFacts) -> None:
        """Write how the run ended, and its model's digest and file."""
        lines = [f"{facts.state}: {facts.reason}" if facts.reason else facts.state, f"model: `{facts.model}`"]
        text = "\n\n".join([*lines, f"SHA-256: `{facts.digest}`"])
        self._add(step=facts.last, summary=_text(ENDED, text))
        self._flush()
        self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what a full disk has kept is written anew, into another file
                file.close()

    def _add(self, *, at: float | None = None, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time() if at is None else at, **content)
        RecordWriter(self._file).write(event.SerializeToString())

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()


def _new_file(folder: Path) -> IO[bytes]:
    """Open a file that readers take after all that are there: they go by the names."""
    for number in itertools.count(sum(1 for _ in folder.iterdir())):
        with suppress(FileExistsError):
            return (folder / f"events.out.tfevents.{number:06}.{os.uname().nodename}").open("xb")
    raise AssertionError


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
    return Summary(value=[value])
