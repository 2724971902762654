"""What a run is: the operator's file (`run:` in server.yaml, or the whole file of `fedwon-server simulate`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from fedwon.common.codec import PLAIN
from fedwon.common.config import Settings
from fedwon.common.methods import METHODS, Method, MethodName
from fedwon.common.privacy_settings import PrivacyConfig
from fedwon.common.private_runs import check_private_examples, check_private_sites, made_private
from fedwon.common.recipes import RECIPES, RecipeName
from fedwon.common.round_settings import DriftConfig, ParticipationConfig, RetentionConfig, TrafficConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig
from fedwon.common.update_settings import AdmissionConfig, AggregationConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""A name that is safe as a file name, in a certificate and in a log line."""

_AS_IT_IS = ("torchvision:", "timm:")


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
    def _the_server_steps_on_what_is_shared(self) -> Self:
        if not self.aggregation.steps:
            return self
        if self.rules.keeps == "everything":
            raise ValueError(
                f"`aggregation.server_momentum` and `server_lr` have nothing to move with method `{self.method}`, "
                "which shares nothing; leave them out, or use another method"
            )
        if self.training.weights_sent == "standardized":
            raise ValueError(
                "`aggregation.server_momentum` and `server_lr` cannot go with `training.weights_sent: standardized`: "
                "the step would be, for the most part, that from raw weights to standardized ones; send them `raw`"
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
