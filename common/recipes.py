"""Recipes: what a run of FedWon is where its configuration says nothing, as data.

What is known of the paper leaves open how the signal is kept in range, what becomes of the fully connected layers, and
which clipping goes with which batch. `paper` is the plain reading of its listing; `tuned` is what makes such a network
trainable in a few hundred steps (docs/decisions/0013-recipe.md; what it brings, set by set: docs/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

RecipeName = Literal["tuned", "paper"]

RECIPES: Mapping[RecipeName, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "tuned": {
            "model": {"relu_constant": True, "linear": "standardized", "skip_gain": 1.75},
            "training": {"clipping": 0.16},
        },
        "paper": {},
    }
)
"""Settings of a run by the recipe's name, nested as in its configuration."""
