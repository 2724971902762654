"""What counts as the run that server.yaml asks for, when a service starts again."""

from __future__ import annotations

from fedwon.common.round_settings import TrafficConfig
from fedwon.server.commands.interrupted import finished
from fedwon.server.runs.run import Run
from tests.server.server_kit import CLASSES, make_home, small_run


def test_a_finished_run_is_not_done_again_because_models_would_travel_otherwise(tmp_path):
    home = make_home(tmp_path / "server")
    run = Run.create(home.store, home.folder, small_run(), CLASSES)
    assert finished(home, small_run()) is None
    run.finish("finished")
    assert run.id in (finished(home, small_run()) or "")
    coded = small_run().model_copy(update={"traffic": TrafficConfig(up="int8", down="int8")})
    assert run.id in (finished(home, coded) or "")
    assert finished(home, small_run(rounds=7)) is None
    home.store.close()
