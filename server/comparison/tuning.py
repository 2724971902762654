"""Learning rate and clipping of each method, searched for on validation images with Optuna.

Every method gets the same search: the same first trials, the same space, the same sampler and seed, as many trials of
as many rounds. A trial that is below the median of the others at the same round is broken off. Test images are never
opened. The trials' seed is their own, so their split of training and validation images is that of no reported run.

Sources: T. Akiba et al., "Optuna: a next-generation hyperparameter optimization framework", KDD 2019; the sampler is
its tree-structured Parzen estimator (J. Bergstra et al., NIPS 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from fedwon.common.methods import MethodName
from fedwon.server.comparison.runs import Ground, Spec, carry_out

SEED = 101
RATES = (0.003, 1.0)
"""Smallest and largest learning rate."""
OFF = "off"
CLIPPINGS: tuple[str | float, ...] = (OFF, 0.04, 0.16, 0.64)
FIRST: tuple[tuple[float, str | float], ...] = ((0.1, 0.16), (0.1, OFF), (0.03, OFF), (0.3, 0.16))
"""Tried before the sampler chooses: what was best on one of the benchmarks' sets, docs/results.md."""
FALLBACK = 0.03, 0.16
_DONE = TrialState.COMPLETE, TrialState.PRUNED


class Pruned(Exception):
    """A trial that is broken off because it does worse than others did."""


@dataclass(frozen=True)
class Choice:
    """What the search found.

    Attributes:
        lr: learning rate.
        clipping: lambda of adaptive gradient clipping; None: off.
        score: mean recall on validation images, mean over lines; NaN if no trial ended.
        trials: trials that ended.
        pruned: trials that were broken off.
    """

    lr: float
    clipping: float | None
    score: float
    trials: int
    pruned: int


class Search:
    """The search for one method; what was tried is kept in the comparison's file.

    Args:
        url: the file, as SQLAlchemy names it.
        method: whose settings.
        rounds: of a trial.
    """

    def __init__(self, url: str, method: MethodName, rounds: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.method, self.rounds = method, rounds
        self._study = optuna.create_study(
            study_name=f"{method}, {rounds} rounds",
            storage=url,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=rounds // 3),
        )
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):  # of a process that was killed
            self._study.tell(trial.number, state=TrialState.FAIL)

    @property
    def done(self) -> int:
        """Trials that ended or were broken off."""
        return len(self._study.get_trials(deepcopy=False, states=_DONE))

    def try_next(self, ground: Ground, heard: Callable[[int], None]) -> dict[str, Any]:
        """Run one more trial.

        Args:
            ground: data and settings.
            heard: told after every round; may raise to end the trial, which then counts as not tried.

        Returns:
            The run's result, or `{"failed": ...}` for a trial that was broken off.
        """
        done = self.done
        self._study.sampler = optuna.samplers.TPESampler(seed=SEED + done, n_startup_trials=len(FIRST))
        if done < len(FIRST):
            lr, clipping = FIRST[done]
            self._study.enqueue_trial({"lr": lr, "clipping": clipping})
        trial = self._study.ask()
        lr = trial.suggest_float("lr", *RATES, log=True)
        chosen = trial.suggest_categorical("clipping", CLIPPINGS)
        scores = [0.0]

        def _after_round(number: int, score: float) -> None:
            heard(number)
            scores.append(score)
            trial.report(score, number)
            if number < self.rounds and trial.should_prune():
                raise Pruned

        spec = Spec("trial", self.method, lr, _clipping(chosen), SEED, self.rounds)
        try:
            result = carry_out(ground, spec, _after_round)
        except Pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            return {"failed": "broken off"}
        except BaseException:
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        self._study.tell(trial, 0.0 if result["failed"] else scores[-1])
        return result

    def best(self) -> Choice:
        """Return what was best so far."""
        ended = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        pruned = self.done - len(ended)
        found = max(ended, key=lambda trial: trial.value or 0.0, default=None)
        if found is None or not found.value:
            return Choice(*FALLBACK, float("nan"), len(ended), pruned)
        return Choice(found.params["lr"], _clipping(found.params["clipping"]), found.value, len(ended), pruned)


def _clipping(chosen: object) -> float | None:
    return None if chosen == OFF else float(str(chosen))
