"""What else a run must be for its privacy to hold: which methods, and how updates are put together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from fedwon.common.config import Settings
from fedwon.common.methods import METHODS, MethodName
from fedwon.common.privacy_settings import ExamplePrivacyConfig, SitePrivacyConfig

S = TypeVar("S", bound=Settings)

NEEDED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "aggregation": {"rule": "mean", "weights": "uniform"},
        "admission": {"norm": None, "own_norm": None, "cosine": None},
        "participation": {"late_rounds": 0},
    }
)
"""Settings that site-level privacy needs, with the reason in `WHY`."""
WHY: Mapping[str, str] = MappingProxyType(
    {
        "aggregation": "the noise is made for a mean in which every site weighs the same",
        "admission": "whether a site counts would depend on the others' updates, which the noise does not cover",
        "participation": "a site would be in one average twice",
    }
)


def check_private_examples(asked: ExamplePrivacyConfig, method: MethodName) -> None:
    """Check that images can be private with a method.

    Raises:
        ValueError: batch norm mixes the images of a batch.
    """
    if asked.noise is not None and METHODS[method].normalization == "batch":
        raise ValueError(
            f"`privacy.examples` cannot go with method `{method}`: batch norm computes each image's output from all "
            "images of its batch, so no bound on one image's gradient exists, and running statistics would leave the "
            "site without noise; use method `fedwon`, `fedavg_gn` or `fedavg_ln`"
        )


def check_private_sites(asked: SitePrivacyConfig, method: MethodName, rounds: int) -> None:
    """Check that sites can be private with a method, for so many rounds.

    Raises:
        ValueError: the method shares statistics of batch norm or nothing at all, or epsilon would go beyond its limit.
    """
    rules = METHODS[method]
    if rules.normalization == "batch" and rules.keeps == "nothing":
        raise ValueError(
            f"`privacy.sites` cannot go with method `{method}`, which averages running statistics of batch norm: with "
            "noise, variances become negative; use `fedwon`, a group or layer norm, or `fedbn` or `silobn`, whose "
            "statistics stay at the sites"
        )
    if rules.keeps == "everything":
        raise ValueError(f"`privacy.sites` has nothing to protect with method `{method}`, which shares nothing")
    asked.check_rounds(rounds)


def made_private(group: str, settings: S) -> S:
    """Return a group of a run's settings as site-level privacy needs it, where it says nothing else.

    Raises:
        ValueError: it says something else.
    """
    needed = NEEDED[group]
    for key, value in needed.items():
        if key in settings.model_fields_set and getattr(settings, key) != value:
            shown = "empty" if value is None else f"`{value}`"
            raise ValueError(f"with `privacy.sites`, `{group}.{key}` must be {shown} or left out: {WHY[group]}")
    return settings.model_copy(update=dict(needed))
