"""`writers` of server.yaml: where a run's figures go besides the server's own database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedwon.common.config import Settings
from fedwon.common.run_config import Name

TrackingUri = Annotated[str, Field(pattern=r"^https?://[^\s@/]+(/[^\s@]*)?$|^sqlite:///[^\s?]+$")]
"""An MLflow server without a user or password in it, or a database file."""


class MlflowConfig(Settings):
    """Parameters, figures by round and the model's digest in MLflow (extra `mlflow`)."""

    uri: TrackingUri | None = None
    """`https://host/...` of a tracking server, which is called for nothing else, or `sqlite:///FILE`; empty: the file
    `mlflow.db` in the server's folder. What a server asks for comes from the environment: `MLFLOW_TRACKING_TOKEN`, or
    `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`."""
    experiment: Name | None = None
    """The experiment that runs are put into; empty: the federation's name."""


class TensorboardConfig(Settings):
    """Figures by round as TensorBoard's event files (extra `tensorboard`)."""

    folder: Path = Path("tensorboard")
    """Where, from the server's folder; each run has a folder of its own below."""


class WritersConfig(Settings):
    """Who else is told a run's figures; nobody, where nothing is named. `{}` names one with its defaults."""

    mlflow: MlflowConfig | None = None
    """Write to MLflow."""
    tensorboard: TensorboardConfig | None = None
    """Write event files."""
