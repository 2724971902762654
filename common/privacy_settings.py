"""Differential privacy as a run asks for it: `privacy` in its configuration; docs/privacy.md says what it is worth."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from fedwon.common.accounting import gaussian_epsilon, gaussian_noise
from fedwon.common.config import Settings

DELTA = 1e-5


def _number(value: object) -> object:
    """Take `1e-5` for the number that it is: YAML reads it as text where it has no point."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Delta = Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)]
"""A small probability."""


class ExamplePrivacyConfig(Settings):
    """Privacy of single images: each site trains with noise (DP-SGD), and an update hardly shows any one image."""

    noise: float | None = Field(default=None, ge=0.1, le=1000)
    """Noise multiplier: standard deviation of the noise on a step's sum of gradients, over `clip`. Empty: off. Not with
    batch norm; needs `fedwon[privacy]` at the sites. Below 0.1 it would protect nothing."""
    clip: float = Field(default=1.0, gt=0)
    """Longest gradient of one image, over all parameters (L2 norm); longer ones are shortened to it."""
    delta: Delta = DELTA
    """Delta that epsilon is told at; well below 1 over the images of a site."""
    epsilon_limit: float | None = Field(default=None, gt=0)
    """A site takes no further task of this run that would bring its epsilon above this; empty: no limit but its own."""


class SitePrivacyConfig(Settings):
    """Privacy of whole sites: the server adds noise to the average, and the model hardly shows who took part how."""

    noise: float | None = Field(default=None, gt=0, le=1000)
    """Noise multiplier: standard deviation of the noise on the sum of the updates, over `clip`. Empty: off. Not where
    statistics of batch norm are shared."""
    clip: float = Field(default=1.0, gt=0)
    """Longest update, as difference to the model that it started from (L2 norm); longer ones are shortened to it."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Share of a round's updates that need no shortening: with it `clip` is where the bound begins, and the bound
    follows the updates from round to round. Costs no epsilon but 5 % more noise. Empty: the bound stays `clip`."""
    delta: Delta = DELTA
    """Delta that epsilon is told at; well below 1 over the number of sites."""
    epsilon_limit: float | None = Field(default=None, gt=0)
    """The most that a site which takes part in every round may have spent at the end; empty: no limit."""

    def epsilon(self, rounds: float) -> float | None:
        """Return what so many rounds cost a site that takes part in all; None where this is off."""
        return None if self.noise is None else gaussian_epsilon(self.noise, rounds, self.delta)

    def check_rounds(self, rounds: int) -> None:
        """Check that a run stays within the limit.

        Raises:
            ValueError: it would not; says which noise would do.
        """
        epsilon = self.epsilon(rounds)
        if epsilon is not None and self.epsilon_limit is not None and epsilon > self.epsilon_limit:
            needed = gaussian_noise(self.epsilon_limit, rounds, self.delta)
            raise ValueError(
                f"`privacy.sites`: {rounds} rounds with noise {self.noise:g} come to epsilon {epsilon:.3g} at delta "
                f"{self.delta:g}, above `epsilon_limit` {self.epsilon_limit:g}; that needs noise {needed:.4g} or more, "
                "or fewer rounds"
            )


class PrivacyConfig(Settings):
    """Differential privacy; either kind, both, or none."""

    examples: ExamplePrivacyConfig = ExamplePrivacyConfig()
    """Of single images, by the sites."""
    sites: SitePrivacyConfig = SitePrivacyConfig()
    """Of whole sites, by the server."""
