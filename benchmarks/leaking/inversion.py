"""The attack: images sought that explain an update.

In two ways at once:

- analytic: the update of the first linear layer is a sum of outer products, one an image and step, so its rows span
  what the convolutions made of the images (Phong et al. 2017; with one image that is known exactly, up to its scale);
- by optimization: images are sought whose convolutions lie in that span and whose gradient points where the update
  does (Zhu et al. 2019, arXiv:1906.08935; Geiping et al. 2020, arXiv:2003.14053), unit by unit, since adaptive
  clipping changes lengths and not directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it

ITERATIONS, RATE, SMOOTH = 400, 0.05, 0.03
"""Steps of Adam, their size, and the weight of total variation."""


def distance_of(gradients: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> Tensor:
    """One less the cosine of each unit's gradient with its part of the update, weighed by how far that moved."""
    total, weight = torch.zeros(()), torch.zeros(())
    for name, gradient in gradients.items():
        here = gradient.flatten(1) if gradient.dim() > 1 else gradient[None]
        there = update[name].flatten(1) if gradient.dim() > 1 else update[name][None]
        size = there.norm(dim=1)
        total = total + (size * (1 - F.cosine_similarity(here, there, dim=1, eps=1e-12))).sum()
        weight = weight + size.sum()
    return total / weight


def _variation(pixels: Tensor) -> Tensor:
    return pixels.diff(dim=2).abs().mean() + pixels.diff(dim=3).abs().mean()


def span_of(update: Mapping[str, Tensor], images: int) -> Tensor:
    """What the first linear layer's update spans: orthonormal directions (images, features), strongest first."""
    weight = next(part for name, part in update.items() if name.startswith("fc1") and part.dim() == 2)
    return torch.linalg.svd(weight, full_matrices=False).Vh[:images]


def outside(features: Tensor, span: Tensor, *, standardized: bool) -> Tensor:
    """Mean share of the features' (N, F) length outside a span; a standardized layer does not show their mean."""
    if standardized:
        features = features - features.mean(dim=1, keepdim=True)
    inside = (features @ span.T).norm(dim=1)
    return (1 - inside / features.norm(dim=1).clamp(min=1e-12)).mean()


def invert(model: nn.Module, update: Mapping[str, Tensor], labels: Tensor, start: Tensor, steps: int) -> Tensor:
    """Look for images (N, 1, 28, 28), as the network gets them, that explain an update.

    Args:
        model: with the global weights.
        update: by parameter, from what the site sent to the global model.
        labels: of the images, (N).
        start: what the attacker thinks that they look like, (N, 1, 28, 28).
        steps: that the update is made of.
    """
    torch.manual_seed(0)
    seen: list[Tensor] = []
    hook = model.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr, operator]
    guess = (start + 0.05 * torch.randn_like(start)).requires_grad_()
    adam = torch.optim.Adam([guess], lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ITERATIONS)
    parameters, span = dict(model.named_parameters()), span_of(update, max(steps, len(labels)))
    model.train()
    for _ in range(ITERATIONS):
        loss = F.cross_entropy(model(guess), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        distance = distance_of(dict(zip(parameters, gradients, strict=True)), update)
        distance = (
            distance
            + outside(seen.pop().flatten(1), span, standardized="fc1.linear.gain" in update)
            + SMOOTH * _variation(guess)
        )
        (guess.grad,) = torch.autograd.grad(distance, [guess])
        adam.step()
        falling.step()
        with torch.no_grad():
            guess.clamp_(-1, 1)
    hook.remove()
    return guess.detach()
