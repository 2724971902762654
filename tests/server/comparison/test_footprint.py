"""What a step holds, counted."""

from torch import nn

from fedwon.common.config import parse
from fedwon.common.model_file import network
from fedwon.common.run_config import RunConfig
from fedwon.common.task_config import TaskConfig
from fedwon.server.comparison.footprint import footprint

CLASSES = ("a", "b", "c")


def config(batch, method="fedavg", momentum=0.0):
    settings = {"model": {"width": 0.125}, "images": {"size": 16, "channels": 1}, "method": method}
    return parse(RunConfig, {**settings, "training": {"batch_size": batch, "momentum": momentum}}, "test")


def test_parameters_are_the_networks():
    model = network(TaskConfig.of(config(4), run="x", server_round=1, classes=CLASSES))
    count = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    found = footprint(config(4), CLASSES)
    assert found.parameters == count
    assert found.model_bytes == 4 * count + buffers
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def test_what_is_kept_for_the_backward_pass_grows_with_the_batch():
    small, large = footprint(config(4), CLASSES), footprint(config(8), CLASSES)
    fixed = small.model_bytes + 4 * small.parameters
    assert small.step_bytes > fixed
    assert 1.6 < (large.step_bytes - fixed) / (small.step_bytes - fixed) <= 2.01
    # the first convolution's output alone: 4 images, 8 channels, 16 x 16 pixels of 4 bytes
    assert small.step_bytes - fixed > 4 * 8 * 16 * 16 * 4


def test_momentum_is_held_too():
    without, with_it = footprint(config(4), CLASSES), footprint(config(4, momentum=0.9), CLASSES)
    assert with_it.step_bytes - without.step_bytes == 4 * without.parameters


def test_the_process_goes_on_with_the_random_numbers_it_had():
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    footprint(config(4, "fedwon"), CLASSES)
    assert torch.equal(torch.rand(3), expected)
