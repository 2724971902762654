"""All words of a comparison, as a typed table: a language is one value of `Texts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ja"]


@dataclass(frozen=True)
class Texts:
    """One language. What stands in braces is filled in; a test holds that all languages have the same.

    Attributes:
        methods: names by method.
        method_notes: what each keeps where, in a few words.
        headlines: the answer, by `verdict.Code` or `facts.Obstacle`.
        reasons: why, by the same.
        advice: what to do next, by the same.
        cautions: by the code of the caution.
    """

    lang: Language
    # while it works
    looking: str
    looked: str
    measuring: str
    planned: str
    tuning: str
    tuned: str
    running: str
    run_done: str
    leaving_out: str
    left_out_done: str
    time_left: str
    report_at: str
    interrupted: str
    go_on: str
    # the page
    title: str
    subtitle: str
    answer: str
    gain_tile: str
    gain_value: str
    gain_note: str
    lines_tile: str
    lines_value: str
    lines_note: str
    worst_tile: str
    worst_value: str
    worst_note: str
    unseen_tile: str
    unseen_value: str
    unseen_note: str
    not_measured: str
    no_gain_yet: str
    next_heading: str
    cautions_heading: str
    by_line_heading: str
    by_line_note: str
    methods_note: str
    differences_heading: str
    differences_note: str
    less: str
    gain_over_alone: str
    better_by: str
    worse_by: str
    undecided: str
    unseen_heading: str
    unseen_intro: str
    cost_heading: str
    cost_intro: str
    cost_columns: tuple[str, ...]
    images_heading: str
    images_columns: tuple[str, ...]
    classes_heading: str
    class_column: str
    distance_heading: str
    distance_intro: str
    how_heading: str
    how: tuple[str, ...]
    settings_heading: str
    settings_columns: tuple[str, ...]
    off: str
    cut_heading: str
    nothing_cut: str
    line: str
    mean: str
    worst: str
    method: str
    points: str
    interval: str
    listing: str
    made_by: str
    methods: Mapping[str, str]
    method_notes: Mapping[str, str]
    headlines: Mapping[str, str]
    reasons: Mapping[str, str]
    advice: Mapping[str, str]
    cautions: Mapping[str, str]
