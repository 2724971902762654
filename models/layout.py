"""How a batch of images lies in memory while a network computes with it.

A network with depthwise convolutions is trained in three quarters of the time where its images lie pixel by pixel
(torch's channels_last) and not channel by channel; the others gain little or lose (``python -m benchmarks.step_time
--tried``). The network says from how many images on it gains; layers pass the layout
on to one another, and the weights stay as they are. Only rounding differs. Measured, and done, on CPUs.
"""

import torch
from torch import Tensor, nn


def laid_out(model: nn.Module, images: Tensor) -> Tensor:
    """The same images as the network computes with them fastest.

    Args:
        model: May have ``channels_last_from``: the smallest batch that is to lie pixel by pixel.
        images: ``(N, C, H, W)``, in any layout.

    Returns:
        Same shape and values; the images themselves if nothing is to be done.
    """
    least = getattr(model, "channels_last_from", None)
    if least is None or len(images) < least or images.device.type != "cpu":  # elsewhere nobody has measured it
        return images
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    # One channel lies alike both ways, so torch would say that nothing is to be done, and layers would take it for the
    # other layout: they go by the strides.
    _, _, height, width = images.shape
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))
