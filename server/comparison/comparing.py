"""A comparison from its folder to its findings: look, measure the pace, plan, search for settings, run, conclude.

All that is finished is in the ledger before the next piece begins, so time that runs out, Ctrl-C or a kill cost at most
the run in hand, and a second call goes on.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fedwon.common.config import merged
from fedwon.common.methods import MethodName
from fedwon.server.comparison.agenda import Agenda, farthest
from fedwon.server.comparison.groundwork import Groundwork, Request, lines_of, prepare
from fedwon.server.comparison.ledger import Ledger
from fedwon.server.comparison.meter import Meter
from fedwon.server.comparison.planning import Clock, Pace, Plan, choose, choose_rest, unseen_seconds
from fedwon.server.comparison.runs import Ground, Spec, carry_out
from fedwon.server.comparison.texts import Texts
from fedwon.server.comparison.tuning import Search
from fedwon.server.engines.interruption import Interruption

logger = logging.getLogger(__name__)

PROBE_ROUNDS, PROBE_IMAGES, PROBE_SEED = 2, 32, 100
SCRATCH = "scratch"


class OutOfTime(Exception):
    """The budget is used up."""


@dataclass
class Findings:
    """What there is when the time is up, or all is done.

    Attributes:
        work: what the runs stood on.
        methods: that were compared.
        plan: what was to be done; None if it did not come to that.
        choices: settings of each method.
        runs: results by method and seed.
        unseen: scores of left-out lines by method, line and seed.
        trials: that each method had.
        seconds: that this call took.
        interrupted: by Ctrl-C.
    """

    work: Groundwork
    methods: tuple[MethodName, ...]
    plan: Plan | None
    choices: Mapping[MethodName, Mapping[str, Any]]
    runs: Mapping[MethodName, Mapping[int, Mapping[str, Any]]]
    unseen: Mapping[MethodName, Mapping[str, Mapping[int, Mapping[str, Any]]]]
    trials: Mapping[MethodName, int]
    seconds: float
    interrupted: bool


def compare(request: Request, meter: Meter, texts: Texts, interruption: Interruption) -> Findings:
    """Compare within the budget; time that runs out and Ctrl-C end it early, with what is there.

    Args:
        request: what is asked for.
        meter: told how it goes.
        texts: in the words of the reader.
        interruption: entered; told of Ctrl-C.

    Raises:
        DataError: there are no lines, or one cannot be listed.
        ConfigError: the configuration is not valid, or does not go with a method.
        FolderTaken: the folder holds another comparison.
    """
    clock = Clock(request.budget, request.since)
    lines_of(request)  # a folder that is none leaves nothing behind
    ledger = Ledger(request.folder)
    try:
        meter.show(texts.looking, clock.passed, clock.left)
        work = prepare(request, ledger, Path.cwd())
        meter.note(texts.looked.format(lines=len(work.facts["lines"]), compared=len(work.facts["compared"])))
        job = _Job(request, work, ledger, clock, meter=meter, texts=texts, interruption=interruption)
        try:
            if work.obstacle is None:
                with interruption.ends_work():
                    job.work()
        except OutOfTime:
            logger.debug("the budget is used up")
        except KeyboardInterrupt:
            logger.debug("interrupted")
        return job.findings()
    finally:
        ledger.close()


class _Job:
    """The work of one call."""

    def __init__(
        self,
        request: Request,
        work: Groundwork,
        ledger: Ledger,
        clock: Clock,
        *,
        meter: Meter,
        texts: Texts,
        interruption: Interruption,
    ) -> None:
        self.methods, self.folder = request.methods, request.folder
        self.groundwork, self.ledger, self.clock, self.meter, self.texts = work, ledger, clock, meter, texts
        self.interruption = interruption
        self.counts = [work.facts["lines"][name]["train"] for name in work.lines]
        self.timed: dict[MethodName, list[tuple[float, float]]] = {name: [] for name in request.methods}
        self.owed = 0.0
        """Seconds that what is planned will still take."""
        torch.set_num_threads(work.threads)

    def ground(self, most: int | None) -> Ground:
        """Data and settings with at most so many training images a line."""
        work = self.groundwork
        own = work.settings.get("images", {}).get("max_train")
        limits = [limit for limit in (most, own) if limit is not None]
        settings = merged(work.settings, {"images": {"max_train": min(limits)}} if limits else {})
        return Ground(settings, work.lines, work.classes, work.threads, self.folder / SCRATCH)

    def work(self) -> None:
        """All of it.

        Raises:
            OutOfTime: the budget is used up.
        """
        for method in self.methods:  # what does not go together is told before minutes have passed
            self.ground(None).config(Spec("run", method, 0.1, None, 1, 1))
        pace = self.pace()
        plan = self.plan(pace)
        if plan.max_train is not None:
            share = sum(min(count, plan.max_train) for count in self.counts) / sum(self.counts)
            pace = Pace({name: seconds * share for name, seconds in pace.round.items()}, pace.overhead)
        ground = self.ground(plan.max_train)
        choices = self.tune(ground, plan, pace)
        pace = self.learnt(pace)
        plan = self.plan_rest(plan, pace, choices)
        self.carry_out(ground, plan, pace, choices)

    def learnt(self, pace: Pace) -> Pace:
        """What a round takes, by the trials of this call; as it was where there were none."""
        timed = {name: rows for name, rows in self.timed.items() if rows}
        rounds = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in timed.items()}
        over = [seconds for rows in timed.values() for _, seconds in rows]
        return Pace({**pace.round, **rounds}, statistics.median(over) if over else pace.overhead)

    def plan_rest(self, plan: Plan, pace: Pace, choices: Mapping[MethodName, Mapping[str, Any]]) -> Plan:
        """The plan, made anew for the time that is left unless a run was made by it already."""
        if self.agenda(plan, choices).begun(self.ledger):
            return plan
        rest = choose_rest(plan, pace, self.methods, len(self.groundwork.lines), self.clock.left)
        self.ledger.put("plan", rest.as_dict())
        self.meter.note(self.texts.planned.format(trials=rest.trials, seeds=rest.seeds, rounds=rest.rounds))
        return rest

    def pace(self) -> Pace:
        """How long a round takes each method, measured once on few images."""
        kept: dict[str, Any] = self.ledger.get("pace") or {"round": {}, "overhead": 0.0}
        share = sum(self.counts) / sum(min(count, PROBE_IMAGES) for count in self.counts)
        for method in self.methods:
            if method in kept["round"]:
                continue
            self.tell(self.texts.measuring.format(method=self.texts.methods[method]))
            spec = Spec("trial", method, 0.03, 0.16, PROBE_SEED, PROBE_ROUNDS)
            result = carry_out(self.ground(PROBE_IMAGES), spec, lambda _number, _score: self.check())
            last = min(result["round_seconds"], default=1.0)
            trained = min(result["train_seconds"] / PROBE_ROUNDS, last)  # only this grows with the images
            kept["round"][method] = last - trained + trained * share
            kept["overhead"] = max(kept["overhead"], result["seconds"] - PROBE_ROUNDS * last, 0.0)
            self.ledger.put("pace", kept)
        return Pace({method: kept["round"][method] for method in self.methods}, kept["overhead"])

    def plan(self, pace: Pace) -> Plan:
        """The plan that fits, or that of an earlier call if a run is done by it, or there is no more time now."""
        more_time = self.clock.budget > (self.ledger.get("planned for") or 0.0)
        kept = None if more_time and not self.begun() else self.ledger.get("plan")
        plan = Plan(**kept) if kept else choose(pace, self.methods, self.counts, self.clock.left)
        self.ledger.put("plan", plan.as_dict())
        self.ledger.put("planned for", max(self.clock.budget, self.ledger.get("planned for") or 0.0))
        self.meter.note(self.texts.planned.format(trials=plan.trials, seeds=plan.seeds, rounds=plan.rounds))
        return plan

    def tune(self, ground: Ground, plan: Plan, pace: Pace) -> dict[MethodName, dict[str, Any]]:
        """Settings of each method: kept ones, or by as many trials as are planned and there is time for."""
        kept = self.ledger.get("choices") if self.begun() else None  # else the search may go on
        choices: dict[MethodName, dict[str, Any]] = kept or {}
        if all(method in choices for method in self.methods):
            return choices
        searches = {name: Search(self.ledger.url, name, plan.trial_rounds) for name in self.methods}
        runs = sum(pace.run(name, plan.rounds) for name in self.methods)
        seconds = {name: pace.run(name, plan.trial_rounds) for name in self.methods}
        for number in range(plan.trials):
            turn = [name for name in self.methods if name not in choices and searches[name].done <= number]
            if self.clock.left < 2 * runs + sum(seconds[name] for name in turn) and number:
                break  # every method has had as many; two seeds are worth more than further trials
            for name in turn:
                left = (plan.trials - number) * sum(seconds.values()) + plan.seeds * runs
                self.tell(
                    self.texts.tuning.format(method=self.texts.methods[name], done=number + 1, all=plan.trials), left
                )
                self.time(name, searches[name].try_next(ground, lambda _number: self.check()))
        choices |= {name: asdict(searches[name].best()) for name in self.methods if name not in choices}
        self.ledger.put("choices", _finite(choices))
        self.meter.note(self.texts.tuned)
        return choices

    def begun(self) -> bool:
        """Whether a run is done by the plan and the settings that are kept, which then stay."""
        plan, choices = self.ledger.get("plan"), self.ledger.get("choices") or {}
        known = [name for name in self.methods if name in choices]
        lines = farthest(list(self.groundwork.lines), self.groundwork.facts)
        return plan is not None and Agenda(Plan(**plan), known, lines, choices).begun(self.ledger)

    def agenda(self, plan: Plan, choices: Mapping[MethodName, Mapping[str, Any]]) -> Agenda:
        """The runs of a plan."""
        lines = farthest(list(self.groundwork.lines), self.groundwork.facts)
        return Agenda(plan, self.methods, lines, choices)

    def time(self, method: MethodName, result: Mapping[str, Any]) -> None:
        """Learn from a trial that ran to its end what a round takes, and a run besides its rounds."""
        rounds = result.get("round_seconds")
        if rounds and not result["failed"]:
            self.timed[method].append((statistics.fmean(rounds), result["seconds"] - sum(rounds)))

    def carry_out(
        self, ground: Ground, plan: Plan, pace: Pace, choices: Mapping[MethodName, Mapping[str, Any]]
    ) -> None:
        """The runs, in blocks that are of use only whole; a block is not begun that would not end in time."""
        blocks = list(self.agenda(plan, choices).blocks())
        costs = [self._seconds(block, plan, pace) for block in blocks]
        for number, (block, cost) in enumerate(zip(blocks, costs, strict=True)):
            missing = [spec for spec in block if self.ledger.get(spec.key) is None]
            if not missing or cost * len(missing) / len(block) > self.clock.left:
                continue
            owed = min(sum(costs[number:]), max(self.clock.left, 0.0))
            for spec in missing:
                self.tell(self._words(spec), owed)
                self.ledger.put(spec.key, carry_out(ground, spec, lambda _number, _score: self.check()))
            self.meter.note(self._words(block[-1], done=True))

    def _seconds(self, block: Sequence[Spec], plan: Plan, pace: Pace) -> float:
        if block[0].without:
            return unseen_seconds(plan, pace, self.methods, len(self.groundwork.lines))
        return sum(pace.run(spec.method, spec.rounds) for spec in block)

    def _words(self, spec: Spec, *, done: bool = False) -> str:
        method = self.texts.methods[spec.method]
        if spec.without:
            text = self.texts.left_out_done if done else self.texts.leaving_out
            return text.format(method=method, line=spec.without, seed=spec.seed)
        return (self.texts.run_done if done else self.texts.running).format(method=method, seed=spec.seed)

    def tell(self, what: str, owed: float | None = None) -> None:
        """Show what is being done, and how long all of it will take."""
        self.owed = self.clock.left if owed is None else owed
        self._what, self._told = what, self.clock.passed
        self.meter.show(what, self.clock.passed, min(self.owed, max(self.clock.left, 0.0)))

    def check(self) -> None:
        """Go on only while there is time; called after every round.

        Raises:
            OutOfTime: there is none left.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        self.interruption.check()
        owed = max(self.owed - (self.clock.passed - self._told), 0.0)
        self.meter.show(self._what, self.clock.passed, min(owed, max(self.clock.left, 0.0)))
        if self.clock.left < 0:
            raise OutOfTime

    def findings(self) -> Findings:
        """What the ledger holds by now."""
        kept = self.ledger.get("plan")
        plan = Plan(**kept) if kept else None
        choices = self.ledger.get("choices") or {}
        chosen = {name: choices[name] for name in self.methods if name in choices}
        known = len(chosen) == len(self.methods)
        agenda = self.agenda(plan, chosen) if plan and known else None
        runs, unseen = agenda.done(self.ledger) if agenda else ({}, {})
        trials = {name: chosen[name]["trials"] + chosen[name]["pruned"] for name in chosen}
        return Findings(
            self.groundwork,
            self.methods,
            plan,
            chosen,
            runs,
            unseen,
            trials,
            self.clock.passed,
            interrupted=self.interruption.asked,
        )


def _finite(choices: Mapping[MethodName, Mapping[str, Any]]) -> dict[str, Any]:
    """JSON has no NaN: a search in which no trial ended has no score."""
    return {
        name: {key: None if value != value else value for key, value in choice.items()}  # noqa: PLR0124 - NaN
        for name, choice in choices.items()
    }
