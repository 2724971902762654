"""The writers that server.yaml names."""

from __future__ import annotations

from importlib.util import find_spec

from fedwon.common.errors import MissingExtra
from fedwon.server.serving import Home
from fedwon.server.writers.mlflow_writer import MlflowWriter
from fedwon.server.writers.recording import Recorder, Writer
from fedwon.server.writers.tensorboard_writer import TensorboardWriter


def recorders_of(home: Home) -> list[Recorder]:
    """Return a recorder for each writer that the configuration names; none of them has begun.

    Raises:
        MissingExtra: the library that one of them writes with is not installed.
    """
    chosen: list[Writer] = []
    if home.config.writers.mlflow is not None:
        chosen.append(MlflowWriter(home.config.writers.mlflow, home.folder, home.config.federation))
    if home.config.writers.tensorboard is not None:
        chosen.append(TensorboardWriter(home.config.writers.tensorboard, home.folder))
    for writer in chosen:
        if find_spec(writer.name) is None:
            raise MissingExtra(
                f"`writers.{writer.name}` in server.yaml needs {writer.name}, which is not installed.",
                hint=f"Install it with `pip install 'fedwon[{writer.name}]'`, or take it out of server.yaml.",
            )
    return [Recorder(home.store, home.folder, writer) for writer in chosen]
