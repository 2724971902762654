"""Fully connected layer with scaled weight standardization: for hidden layers, by fedwon's default recipe.

FedWon itself standardizes convolutions only (`recipe: paper`); docs/decisions/0013-recipe.md says what it brings.

Source: as :mod:`fedwon.models.ws_conv`, with the rows of the weight in place of the filters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.ws_conv import standardize


class WSLinear(nn.Linear):
    """Linear layer whose weight is standardized per output in every forward pass.

    State dict keys: ``weight`` ``(out_features, in_features)``, ``bias`` ``(out_features,)``, ``gain``
    ``(out_features,)``.

    Args:
        in_features: Inputs per example, > 0.
        out_features: Outputs per example, one row and one gain each.
        eps: Floor of the squared norm of a centred row; > 0.
    """

    def __init__(self, in_features: int, out_features: int, *, eps: float = 1e-4) -> None:
        super().__init__(in_features, out_features)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(out_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)
        nn.init.zeros_(self.bias)

    def standardized_weight(self) -> Tensor:
        """``gain * (W - mean) / sqrt(max(var * in_features, eps))``, mean and biased variance over each row.

        Returns:
            Tensor of the shape of ``weight``.
        """
        return standardize(self.weight, self.gain, self.eps)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Linear gives it
        """``(N, in_features)`` to ``(N, out_features)``."""
        return F.linear(input, self.standardized_weight(), self.bias)
