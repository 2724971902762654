"""What a run is: the part of the configuration that server and sites share.

A `RunConfig` is the operator's file (`run:` in server.yaml, or the whole file of `fedwon-server simulate`). A
`TaskConfig` is what the server makes of it for one task, handed out with that task, so that all sites agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedwon.common.codec import PLAIN, Down, Up
from fedwon.common.config import Settings, flatten, parse, unflatten
from fedwon.common.methods import METHODS, Keeps, Method, MethodName, Normalization
from fedwon.common.privacy_settings import ExamplePrivacyConfig, PrivacyConfig
from fedwon.common.private_runs import check_private_examples, check_private_sites, made_private
from fedwon.common.recipes import RECIPES, RecipeName
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""A name that is safe as a file name, in a certificate and in a log line."""

Unit = Annotated[float, Field(gt=0, le=1)]
_AS_IT_IS = "torchvision:"


Rule = Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_clipping"]
"""How the updates of a round are put together."""


class ParticipationConfig(Settings):
    """Which sites take part in a round and how long it waits for them."""

    minimum: int = Field(default=2, ge=1)
    """A round starts when so many sites are connected."""
    fraction: Unit = 1.0
    """Share C of the connected sites that train in a round, drawn with the run's seed; at least one."""
    quorum: int | None = Field(default=None, ge=1)
    """Answers that a round needs to count (k of n); empty: as many as `minimum`. Never more than were asked."""
    patience_seconds: float | None = Field(default=None, ge=0)
    """How long to wait for the others once the quorum has answered; empty: until the deadline."""
    deadline_seconds: float = Field(default=3600, gt=0)
    """Longest time from the first task handed out to the end of the round."""
    away_seconds: float | None = Field(default=300, ge=0)
    """A site that was asked and has had no connection for so long is not waited for any more; empty: until the
    deadline."""
    late_rounds: int = Field(default=0, ge=0)
    """An update that misses its round still counts in one of so many rounds after it, with less weight
    (`aggregation.staleness`); 0: it is refused, and the site is asked for the round that is open."""
    retries: int = Field(default=2, ge=0)
    """How often a round with too few answers is repeated before the run pauses."""
    pause_seconds: float | None = Field(default=600, gt=0)
    """How long the run then pauses; a site that connects ends the pause. Then the round is asked for again, also of
    the sites that came meanwhile. Empty: no pause, the server ends with an error, and `--resume` goes on."""


class AdmissionConfig(Settings):
    """What an update must be before it may touch the global model; docs/admission.md says what each rule is for.

    Names, shapes and element types of its tensors, and its numbers, are always looked at. An update that breaks a rule
    is kept in quarantine with the reason, and the round goes on without it.
    """

    finite: bool = True
    """Refuse tensors with numbers that are not finite. Off only to see what such an update does."""
    surveyed: bool = True
    """Refuse an update that declares more training images than its site says it has."""
    most_examples: int | None = Field(default=None, ge=1)
    """Training images that any update may declare; empty: no limit but the others."""
    count_growth: float | None = Field(default=10.0, gt=1)
    """Refuse an update that declares more than so many times the images that its site declared in the rounds before;
    empty: off."""
    norm: float | None = Field(default=10.0, gt=1)
    """Refuse an update that moves the model more than so many times as far as the median update, of all sites, in this
    round and those of `window`, and the square root of its share of images more; from three sites on. Empty: off."""
    own_norm: float | None = Field(default=20.0, gt=1)
    """Refuse an update that moves the model more than so many times as far as the site's own median update of the
    rounds of `window`; from three of them on. Empty: off."""
    cosine: float | None = Field(default=None, ge=-1, lt=1)
    """Refuse an update whose direction has a lower cosine to the mean direction of the round's others, such as -0.2;
    empty: off. Off by default, for honest lines that differ go against one another late in a run."""
    cosine_sites: int = Field(default=5, ge=3)
    """Updates of one round from which on directions are compared."""
    replays: bool = True
    """Refuse an update with the very bits of one that the site sent in an earlier round."""
    window: int = Field(default=5, ge=1)
    """Rounds before this one that counts and norms are compared with."""
    suspend_after: int | None = Field(default=None, ge=1)
    """Suspend a site after so many refused updates without one that counted between them; empty: only an operator
    suspends sites."""

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
    def needs_single_sites(self) -> bool:
        """Whether the rule tells sites apart, so that none may be the mean of several."""
        return self.rule not in {"mean", "norm_clipping"}


class TrafficConfig(Settings):
    """How models travel; docs/codecs.md says which codec is for what."""

    up: Up = "int8"
    """Updates, from the sites: `plain` float32; `fp32` packed without loss; or their difference to the global model as
    `bf16`, `fp16`, `int8` with stochastic rounding, or only its largest twentieth (`topk`). Of the last two, what was
    left out is added to the site's next update. A site of an older version sends `plain`."""
    down: Down = "int8"
    """The global model, to the sites: whole and `plain`, or its difference to the one before, which sites hold.
    Where that is lossy, the model that counts is the one that the sites get."""


class RetentionConfig(Settings):
    """What the server keeps of a run on its disk."""

    rounds: int | None = Field(default=5, ge=2)
    """Models of so many rounds are kept, the newest ones, and the best one by validation accuracy; empty: all.
    Manifests of all rounds are kept."""
    history: int | None = Field(default=1000, ge=10)
    """What each site was asked and what it measured is kept of so many rounds, the newest ones, of a tenth as many at
    even distances before, and of rounds whose model is kept: the database stops growing at about 2 kB x sites x rounds.
    Empty: all."""
    refused: int = Field(default=20, ge=1)
    """Refused updates that are kept for inspection, the newest ones."""
    refused_mb: int = Field(default=1000, ge=0)
    """Megabytes that refused updates may take; the newest one is kept whatever its size."""


class DriftConfig(Settings):
    """When a line is said to have drifted away from the model; docs/faults.md measures it.

    A line's accuracy of the incoming model is compared with its own past and with the other lines.
    """

    alarm: bool = True
    """Raise it. Nothing else follows: the line's updates go on counting."""
    threshold: float = Field(default=5.0, ge=1, le=100)
    """Sum of falls, in standard deviations, at which it is raised. At 5 fewer than one round of a site in a thousand
    raises it falsely."""


class RunConfig(Settings):
    """One run: what is trained, how, and by whom."""

    name: Name = "run"
    """Begins the name of the run's folder."""
    method: MethodName = "fedwon"
    """The federated method; see docs/configuration.md for the table."""
    recipe: RecipeName = "tuned"
    """What a run of `fedwon` is where this file says nothing else; see the [table below](#recipes). `tuned`: what
    makes networks without normalization trainable in few rounds. `paper`: the plain reading of the paper's listing."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Everything random in a run follows from it: initial weights, splits, site choice, order of images."""
    rounds: int = Field(default=10, ge=1)
    """Rounds of local training and averaging."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the network's outputs; empty: the union of what the first sites have, sorted."""
    model: ModelConfig = ModelConfig()
    """The network."""
    pretrained: str | None = None
    """A model file to start from, found from the folder of this file: one that `fedwon-server convert` or an earlier
    run wrote, of the same network and classes. Empty: random weights, drawn with the seed."""
    images: ImageConfig = ImageConfig()
    """Image preparation and class agreement."""
    training: TrainingConfig = TrainingConfig()
    """Local training."""
    participation: ParticipationConfig = ParticipationConfig()
    """Site choice, quorum and deadline."""
    admission: AdmissionConfig = AdmissionConfig()
    """Which updates count."""
    aggregation: AggregationConfig = AggregationConfig()
    """Averaging."""
    drift: DriftConfig = DriftConfig()
    """The drift alarm."""
    traffic: TrafficConfig = TrafficConfig()
    """Bytes on the wire."""
    retention: RetentionConfig = RetentionConfig()
    """What stays on the server's disk."""
    privacy: PrivacyConfig = PrivacyConfig()
    """Differential privacy."""

    @field_validator("classes", mode="before")
    @classmethod
    def _numbers_are_names(cls, classes: object) -> object:
        if not isinstance(classes, list):
            return classes
        return tuple(str(name) if type(name) is int else name for name in classes)

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and len(classes) < 2:
            raise ValueError("at least two classes are needed")
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @model_validator(mode="after")
    def _what_is_left_out_is_the_recipes(self) -> Self:
        """Other methods than `fedwon` have no recipe, and neither have networks that are converted, not made anew."""
        if self.method == "fedwon" and not self.model.name.startswith(_AS_IT_IS):
            for group, settings in RECIPES[self.recipe].items():
                self._leave_out(group, **settings)
        return self

    @model_validator(mode="after")
    def _batch_norm_needs_two(self) -> Self:
        if self.training.batch_size < self.rules.minimum_batch:
            raise ValueError(
                f"method `{self.method}` uses batch norm, which cannot train on a batch of {self.training.batch_size}; "
                f"use `batch_size: {self.rules.minimum_batch}` or more, or method `fedwon`"
            )
        quorum = self.participation.quorum
        if quorum is not None and quorum > self.participation.minimum and self.participation.fraction == 1.0:
            raise ValueError(
                "`participation.quorum` is larger than `participation.minimum`: such a round cannot end well"
            )
        return self

    @model_validator(mode="after")
    def _enough_updates_for_the_rule(self) -> Self:
        rules, who = self.aggregation, self.participation
        asked = max(1, round(who.fraction * who.minimum))
        sure = min(who.quorum or who.minimum, asked)
        if sure < rules.fewest:
            raise ValueError(
                f"`aggregation.rule: {rules.rule}` needs {rules.fewest} updates in each round, and `participation` is "
                f"content with {sure}: raise `minimum` (and `quorum`, `fraction`), or use another rule"
            )
        return self

    @model_validator(mode="after")
    def _privacy_holds(self) -> Self:
        """Each rule is one that epsilon would not hold without; what is left out becomes what it needs."""
        check_private_examples(self.privacy.examples, self.method)
        if self.privacy.sites.noise is not None:
            check_private_sites(self.privacy.sites, self.method, self.rounds)
            for group in ("aggregation", "admission", "participation"):
                object.__setattr__(self, group, made_private(group, getattr(self, group)))  # nobody else saw it yet
        return self

    @model_validator(mode="after")
    def _standardized_weights_are_fedwons(self) -> Self:
        ablation = self.model.ablation
        asked = {
            "training.weights_sent: standardized": self.training.weights_sent == "standardized",
            "model.ablation.standardized: false": not ablation.standardized,
            "model.ablation.gain: false": not ablation.gain,
        }
        for setting, is_set in asked.items():
            if is_set and self.rules.normalization != "none":
                raise ValueError(
                    f"`{setting}` is for weight-standardized convolutions, and method `{self.method}` has none; "
                    f"leave it out, or use method `fedwon`"
                )
        return self

    @model_validator(mode="after")
    def _masked_updates_cannot_be_looked_at(self) -> Self:
        if not self.aggregation.secure.enabled:
            return self
        self._leave_out("traffic", up=PLAIN)
        self._leave_out("admission", norm=None, own_norm=None, cosine=None)
        who, looks, up = self.participation, self.admission, self.traffic.up
        asked = max(1, round(who.fraction * who.minimum))
        wrong = {
            f"`method: {self.method}`, whose batch norm has statistics that cannot be shortened and counters that "
            "cannot be averaged; use `fedwon`": self.rules.normalization == "batch",
            f"`aggregation.rule: {self.aggregation.rule}`; use `mean` (`aggregation.secure.clip_norm` shortens updates "
            "at the sites)": self.aggregation.rule != "mean",
            f"`traffic.up: {up}`; leave it out, masked numbers cannot be made smaller": up != PLAIN,
            "`admission.norm`, `own_norm` and `cosine`, which need each site's own update; leave them out": not (
                looks.norm is looks.own_norm is looks.cosine is None
            ),
            "`participation.late_rounds`: masked updates are never late; leave it out": who.late_rounds > 0,
            f"rounds of {asked} sites, three are the fewest; raise `participation.minimum` or `fraction`": asked < 3,
            "`participation.quorum: 1`: the sum of one update is that update": who.quorum == 1,
            "`privacy.sites`, for which the server shortens each site's own update; leave it out": (
                self.privacy.sites.noise is not None
            ),
        }
        for what, is_so in wrong.items():
            if is_so:
                raise ValueError(f"`aggregation.secure` cannot have {what}")
        return self

    def _leave_out(self, group: str, **settings: object) -> None:
        """Set what the file does not say."""
        own: Settings = getattr(self, group)
        left_out = {key: value for key, value in settings.items() if key not in own.model_fields_set}
        object.__setattr__(self, group, own.model_copy(update=left_out))  # before anybody else sees it

    def located(self, folder: Path) -> Self:
        """Return the same run with its model file found from a folder."""
        if self.pretrained is None:
            return self
        return self.model_copy(update={"pretrained": str(folder / self.pretrained)})

    @property
    def rules(self) -> Method:
        """The method's row in the table of methods."""
        return METHODS[self.method]


BEFORE_CODECS: Mapping[str, object] = MappingProxyType({"traffic": {"up": PLAIN, "down": PLAIN}})
"""What the configuration of a run of version 0.1 does not say; a run that is taken up goes on as it began."""

_LATER: Mapping[str, object] = MappingProxyType(
    {
        "keeps": "nothing",
        "frozen_statistics": False,
        "images.standardize": "alike",
        "training.schedule": "constant",
        "training.warmup_rounds": 0,
        "training.augmentation.flip_horizontal": False,
        "training.augmentation.flip_vertical": False,
        "training.augmentation.turn_degrees": 0.0,
        "training.weights_sent": "raw",
        "model.ablation.standardized": True,
        "model.ablation.gain": True,
        "model.linear": "plain",
        "model.dropout": 0.0,
        "model.skip_gain": 0.0,
        "privacy.clip": 1.0,
        "privacy.delta": 1e-5,
    }
)
"""Settings of a task that version 0.1's sites do not know, and what these do."""


class TaskConfig(Settings):
    """What a site is told with one task."""

    run: str
    """Identifier of the run."""
    round: int = Field(ge=0)
    """Number of the round, from 1; 0 for an evaluation before any training."""
    seed: int = Field(ge=0)
    """The run's seed; a site mixes it with its name and the round."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names in the order of the network's outputs."""
    normalization: Normalization
    """The method's normalization."""
    minimum_batch: int = Field(default=1, ge=1)
    """Smallest batch that this network can be trained on."""
    model: ModelConfig
    """The network."""
    images: ImageConfig
    """Image preparation and class agreement."""
    training: TrainingConfig
    """Local training."""
    keeps: Keeps = "nothing"
    """What of the network stays at the site."""
    frozen_statistics: bool = False
    """Train with the running statistics of normalization layers, and leave these as they are."""
    privacy: ExamplePrivacyConfig = ExamplePrivacyConfig()
    """Privacy of single images."""

    @classmethod
    def of(cls, config: RunConfig, *, run: str, server_round: int, classes: tuple[str, ...]) -> TaskConfig:
        """Make the task configuration of one round of a run."""
        training = config.training.in_round(server_round, config.rounds)
        if training.proximal_mu is None:
            training = training.model_copy(update={"proximal_mu": config.rules.proximal_mu})
        return cls(
            run=run,
            round=server_round,
            seed=config.seed,
            classes=classes,
            normalization=config.rules.normalization,
            minimum_batch=config.rules.minimum_batch,
            model=config.model,
            images=config.images,
            training=training,
            keeps=config.rules.keeps,
            frozen_statistics=server_round > config.rounds * config.rules.freezes_after,
            privacy=config.privacy.examples,
        )

    def flat(self) -> dict[str, Any]:
        """Lay the task out as flat, typed keys, the form in which it travels in a Flower ConfigRecord.

        Settings that came later are left out where they say what a site without them does anyway.
        """
        return {key: value for key, value in flatten(self).items() if key not in _LATER or _LATER[key] != value}

    @classmethod
    def from_flat(cls, flat: dict[str, object]) -> TaskConfig:
        """Read what `flat` wrote.

        Raises:
            ConfigError: a key is unknown or has a value out of range.
        """
        return parse(cls, unflatten(flat), "task from the server")
