"""What tests of benchmarks share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Small steps on several threads of a busy machine mostly wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
