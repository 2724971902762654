"""What a site is told with one task: what the server makes of a run's configuration, so that all sites agree."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from fedwon.common.config import Settings, flatten, parse, unflatten
from fedwon.common.methods import Keeps, Normalization
from fedwon.common.privacy_settings import ExamplePrivacyConfig
from fedwon.common.run_config import RunConfig
from fedwon.common.task_settings import ImageConfig, ModelConfig, TrainingConfig

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
