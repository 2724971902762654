"""Commands that only look or write a row answer at once: torch, which takes seconds to load, is not loaded for them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_command_alone_does_not_load_torch(side):
    code = f"import sys; import fedwon.{side}.cli; print(sorted({{'torch', 'torchvision'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
