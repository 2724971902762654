"""What all tests share: where the image sets are, and one torch thread, so that bits repeat."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("fedwon", deadline=None, print_blob=True)
settings.load_profile("fedwon")


@pytest.fixture(scope="session")
def image_sets() -> Path:
    """The folder of image sets: FEDWON_DATA, or `../shared/data` beside the project; skips where there is none."""
    named = os.environ.get("FEDWON_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no image sets: FEDWON_DATA is {'unset' if named is None else named} and {folder} is no folder")
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database of MLflow's to copy, made once: its hundred migrations take seconds."""
    from fedwon.server.writers.config import MlflowConfig
    from fedwon.server.writers.mlflow_writer import MlflowWriter

    place = tmp_path_factory.mktemp("mlflow")
    MlflowWriter(MlflowConfig(), place, "none")._opened()
    return place / "mlflow.db"
