"""Nothing calls home, and Flower still listens to the switches."""

import os
import subprocess
import sys

from fedwon.common.quiet import QUIET, no_telemetry


def run(program, **environment):
    full = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], env=full, capture_output=True, text=True, check=True).stdout


def test_switches_override_the_environment(monkeypatch):
    for name in QUIET:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    no_telemetry()
    assert {name: os.environ[name] for name in QUIET} == dict(QUIET)
    assert os.environ["GRPC_VERBOSITY"] == "DEBUG"  # that one is the user's


def test_it_does_not_import_flower():
    program = (
        "import sys, fedwon.common.quiet as q; q.no_telemetry(); print('flwr' in sys.modules, 'grpc' in sys.modules)"
    )
    assert run(program).split() == ["False", "False"]


def test_flower_reads_these_names():
    program = """
from fedwon.common.quiet import no_telemetry
no_telemetry()
from flwr.supercore import telemetry
from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK
from flwr.common.constant import FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION
print(telemetry.FLWR_TELEMETRY_ENABLED, FLWR_DISABLE_UPDATE_CHECK, FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION)
"""
    value, *names = run(program, FLWR_TELEMETRY_ENABLED="1").split()
    assert value == "0"
    assert set(names) < set(QUIET)
