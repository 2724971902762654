"""What a run of the comparison is configured with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwon.client.config import DataConfig
from fedwon.server.comparison.runs import Ground, Spec


@pytest.mark.parametrize("method", ["fedavg", "fedwon", "standalone"])
def test_every_update_of_a_line_counts_that_can_be_averaged(tmp_path: Path, method: str) -> None:
    lines = {name: DataConfig(path=str(tmp_path / name)) for name in ("a", "b")}
    ground = Ground({"admission": {"cosine": 0.0}}, lines, ("bad", "good"), 1, tmp_path)
    config = ground.config(Spec("run", method, 0.1, None, 1, 2))  # type: ignore[arg-type]
    admission = config.admission
    assert admission.cosine is admission.norm is admission.own_norm is admission.count_growth is None
    assert not admission.replays
    assert admission.finite
    assert config.participation.minimum == 2, "no line may be lost unnoticed"
