import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_own_random_numbers():
    """Threads cost more than they give at these sizes; and no test's draws depend on the order of the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
