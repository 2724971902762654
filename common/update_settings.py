"""Settings of what becomes of updates: which count, how they become the next model, and whether they are masked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from fedwon.common.config import Settings

Rule = Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_clipping"]
"""How the updates of a round are put together."""


class AdmissionConfig(Settings):
    """What an update must be before it may touch the global model; docs/admission.md says what each rule is for.

    Names, shapes and element types of its tensors, and its numbers, are always looked at. An update that breaks a rule
    is kept in quarantine with the reason, and the round goes on without it.
    """

    finite: bool = True
    """Refuse tensors with numbers that are not finite, and variances below zero. Off only to see what such an update
    does."""
    surveyed: bool = True
    """Refuse an update that declares more images, to train or to measure on, than its site says it has."""
    most_examples: int | None = Field(default=None, ge=1)
    """Training images that any update may declare; empty: no limit but the others."""
    count_growth: float | None = Field(default=10.0, gt=1)
    """Refuse an update that declares more than so many times the images that its site declared in the rounds before;
    empty: off."""
    norm: float | None = Field(default=10.0, gt=1)
    """Refuse an update that moves the model more than so many times as far as the median update, of all sites, in this
    round and those of `window`, and the square root of its share of images more; from three sites on. One that passes,
    but pulls the mean (weight times distance) more than so many times as hard as the median update (or `weight_cap`
    times, if that is more), weighs so much less that it does not. Empty: off."""
    own_norm: float | None = Field(default=20.0, gt=1)
    """Refuse an update that moves the model more than so many times as far as the site's own median update of the
    rounds of `window`; from three of them on. Empty: off."""
    cosine: float | None = Field(default=None, ge=-1, lt=1)
    """Refuse an update whose direction has a lower cosine to the mean direction of the round's others, such as -0.2;
    empty: off. Off by default, for honest lines that differ go against one another late in a run."""
    cosine_sites: int = Field(default=5, ge=3)
    """Updates of one round from which on directions are compared."""
    replays: bool = True
    """Refuse an update with the very bits of one of the site's that counted in an earlier round, as far back as
    `retention.history` goes."""
    window: int = Field(default=5, ge=1)
    """Rounds before this one that counts and norms are compared with."""
    suspend_after: int | None = Field(default=None, ge=1)
    """Suspend a site after so many refused updates, without one that counted between them and since an operator let it
    be asked again; empty: only an operator suspends sites."""

    @classmethod
    def unsuspecting(cls) -> Self:
        """Refuse only what cannot be averaged: where nobody is hostile, a method is measured with every update."""
        return cls(count_growth=None, norm=None, own_norm=None, cosine=None, replays=False)


class SecureConfig(Settings):
    """Secure aggregation: the server sees the sum of the sites' updates and no single one (docs/secure-aggregation.md).

    It takes three sites at least, and more than half of those that began must stay until the sum is opened.
    """

    enabled: bool = False
    """Sites mask their updates. Then nothing looks at single ones: `rule` is `mean`, `traffic.up` is `plain` and the
    rules of `admission` that compare updates are off; methods with batch norm cannot be used."""
    clip_norm: float = Field(default=10.0, gt=0, le=1e6)
    """Norm to which a site shortens its update; the finest difference that counts is this, times the number of sites,
    over two thousand million."""
    neighbours: int | None = Field(default=None, ge=2)
    """Sites that each site masks with. Empty: all others, and beyond 163 sites as many as are safe; fewer cost less
    and hide less."""
    stage_seconds: float = Field(default=120.0, gt=0)
    """How long keys, shares and openings are waited for; the training has `participation.deadline_seconds`."""


class AggregationConfig(Settings):
    """How updates become the next global model; docs/admission.md compares the rules."""

    rule: Rule = "mean"
    """`mean` (FedAvg); coordinate by coordinate the `median` or the `trimmed_mean`, all sites alike; `krum`: the one
    update that is nearest to its nearest others; `multi_krum`: the mean of the nearest; `bulyan`: of the nearest, those
    values that are closest to the median; `norm_clipping`: the mean, with each update's difference shortened to
    `clip_norm`. All but `mean` and `norm_clipping` need every site's own update and cannot have relays below."""
    hostile: int = Field(default=1, ge=1)
    """Updates of a round that may be hostile, for `krum`, `multi_krum` (2 x this + 3 updates at least) and `bulyan`
    (4 x this + 3)."""
    trim: float = Field(default=0.2, ge=0.01, lt=0.5)
    """Share of the updates that `trimmed_mean` cuts off at either end."""
    selected: int | None = Field(default=None, ge=1)
    """Updates that `multi_krum` averages; empty: all but `hostile` of them."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Norm to which `norm_clipping` shortens differences; empty: the median norm of the round's."""
    weights: Literal["examples", "uniform"] = "examples"
    """Weigh a site by its number of training images, or all sites alike (the paper's protocol)."""
    weight_cap: float = Field(default=10.0, ge=1)
    """No site weighs more than so many times the median site of the round, whatever it declares."""
    staleness: float = Field(default=0.5, ge=0)
    """An update that is s rounds late weighs (1 + s) ** -staleness as much as it would in time; see
    `participation.late_rounds`."""
    server_momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum at the server (FedAvgM): the share of each round's step that the next round takes again; 0: off. Steps
    that agree add up to 1 / (1 - this) of one, so smaller rates at the sites may be needed. Statistics and counters of
    batch norm have none. Each model is kept with its velocity, which takes as much disk again; relays have none."""
    server_lr: float = Field(default=1.0, gt=0, le=10)
    """Length of the server's step: 1 goes as far as the mean of the updates (FedAvg), less stays behind it."""
    secure: SecureConfig = SecureConfig()
    """Masked updates."""

    @property
    def fewest(self) -> int:
        """Updates that the rule needs."""
        cut = next(count for count in range(1, 102) if int(self.trim * count))
        needs: dict[Rule, int] = {
            "mean": 1,
            "median": 3,
            "trimmed_mean": cut,
            "krum": 2 * self.hostile + 3,
            "multi_krum": max(2 * self.hostile + 3, self.selected or 0),
            "bulyan": 4 * self.hostile + 3,
            "norm_clipping": 1 if self.clip_norm is not None else 3,
        }
        return needs[self.rule]

    @property
    def steps(self) -> bool:
        """Whether the next model is another than the one that the rule makes of the updates."""
        return self.server_momentum > 0 or self.server_lr != 1.0

    @property
    def needs_single_sites(self) -> bool:
        """Whether the rule tells sites apart, so that none may be the mean of several."""
        return self.rule not in {"mean", "norm_clipping"}
