"""The words of the page, one typed table a language, and which one a browser asks for.

`english.py` and `japanese.py` fill the table; a text that one of them lacks is a type error, and a test compares what
stands between braces. What sites and the server itself say (reasons, names, the audit trail) is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Texts:
    """Every text of the page; `{name}` is filled in where it is used."""

    language: str
    # the frame
    title: str
    overview: str
    history: str
    log_in: str
    log_out: str
    skip: str
    lost: str
    lost_hint: str
    navigation: str
    updated: str
    read_only: str
    # headings
    next_heading: str
    sites_heading: str
    worst_first: str
    changes_heading: str
    runs_heading: str
    round_heading: str
    accuracy_heading: str
    troubles_heading: str
    data_heading: str
    facts_heading: str
    actions_heading: str
    invite_heading: str
    # the headline
    no_sites: str
    no_sites_hint: str
    no_run: str
    no_run_hint: str
    run_running: str
    run_starting: str
    run_measuring: str
    run_paused: str
    run_held: str
    run_finished: str
    run_stopped: str
    run_failed: str
    round_progress: str
    waiting_for: str
    model_at: str
    will_pause: str
    will_stop: str
    # key figures
    mean_accuracy: str
    weakest_site: str
    sites_connected: str
    rounds_done: str
    of: str
    # a site
    site: str
    state: str
    accuracy: str
    course: str
    course_label: str
    images: str
    classes: str
    last_seen: str
    certificate: str
    certificate_days: str
    certificate_over: str
    version: str
    on_test: str
    on_validation: str
    no_figure: str
    connected: str
    resting: str
    resting_until: str
    away: str
    never: str
    revoked: str
    task_sent: str
    task_received: str
    task_averaged: str
    task_refused: str
    task_failed: str
    task_late: str
    no_troubles: str
    no_data: str
    in_class: str
    untold: str
    part_train: str
    part_validation: str
    part_test: str
    total: str
    # runs and rounds
    run: str
    method: str
    rounds: str
    round: str
    began: str
    privacy_sites: str
    privacy_examples: str
    privacy_spent: str
    ended: str
    model: str
    seconds: str
    committed: str
    reason: str
    no_rounds: str
    state_running: str
    state_paused: str
    state_finished: str
    state_stopped: str
    state_failed: str
    as_table: str
    chart_label: str
    kept_in: str
    # time
    now: str
    seconds_ago: str
    minutes_ago: str
    hours_ago: str
    days_ago: str
    # since yesterday
    no_changes: str
    change_rounds: str
    change_accuracy: str
    change_joined: str
    change_gone: str
    change_troubles: str
    change_refusals: str
    change_action: str
    by: str
    action_made: str
    action_token: str
    action_revoked: str
    action_run_started: str
    action_run_resumed: str
    action_run_paused: str
    action_run_held: str
    action_run_released: str
    action_run_stop: str
    action_stopped: str
    action_images: str
    action_certificate: str
    action_server_certificate: str
    action_authority: str
    action_evaluation: str
    action_login: str
    action_password: str
    # what to do next
    nothing_to_do: str
    do_invite: str
    do_start: str
    do_waiting: str
    do_held: str
    do_resume: str
    do_use_model: str
    do_away: str
    do_never: str
    do_refused: str
    do_failed: str
    do_late: str
    do_weak: str
    do_certificate_site: str
    do_certificate_server: str
    do_certificate_authority: str
    do_version: str
    do_few_images: str
    # the history
    when: str
    who: str
    what: str
    about: str
    detail: str
    times: str
    no_history: str
    # login and actions
    password: str
    your_name: str
    your_name_hint: str
    log_in_hint: str
    no_password: str
    wrong_password: str
    too_many: str
    expired_form: str
    pause: str
    pause_hint: str
    resume: str
    stop: str
    stop_hint: str
    confirm: str
    invite: str
    invite_hint: str
    invited: str
    invited_hint: str
    revoke: str
    revoke_hint: str
    why: str
    cancel: str
    log_in_to_act: str
    done_pause: str
    done_resume: str
    done_stop: str
    done_revoke: str
    # releases
    releases: str
    no_releases: str
    release: str
    used_at: str
    lines_heading: str
    in_use: str
    order: str
    order_promote: str
    order_hold: str
    order_rollback: str
    said: str
    said_open: str
    said_in_use: str
    said_refused: str
    said_failed: str
    said_withdrawn: str
    said_held: str
    figures: str
    promote_heading: str
    promote: str
    promote_hint: str
    all_sites: str
    gates: str
    gates_hint: str
    gate_accuracy: str
    gate_escape: str
    gate_overkill: str
    gate_images: str
    gate_defects: str
    not_a_number: str
    stay_heading: str
    hold: str
    hold_hint: str
    rollback: str
    rollback_hint: str
    done_promote: str
    done_hold: str
    done_rollback: str
    # refused updates and suspended sites
    refused_updates: str
    no_refused: str
    update: str
    rule: str
    kept_held: str
    kept_released: str
    kept_counted: str
    kept_gone: str
    file_gone: str
    numbers_heading: str
    moved_heading: str
    moved_hint: str
    tensor: str
    norm: str
    let_out: str
    let_out_hint: str
    done_let_out: str
    reason_kept: str
    suspended: str
    suspended_because: str
    suspend: str
    suspend_hint: str
    lift: str
    lift_hint: str
    done_suspend: str
    done_lift: str
    do_suspended: str
    action_suspended: str
    action_lifted: str
    action_let_out: str
    action_not_used: str
    action_held_back: str
    action_promoted: str
    action_release_held: str
    action_rolled_back: str
    action_release_in_use: str
    action_release_refused: str
    action_release_failed: str
    action_release_made: str
    # errors
    not_found: str
    not_found_hint: str
    back: str
    trouble: str

    def ago(self, moment: datetime | None, now: datetime) -> str:
        """Say how long ago a moment was, in the largest unit that fits."""
        if moment is None:
            return self.never
        passed = max(now - moment, timedelta())
        if passed < timedelta(seconds=5):
            return self.now
        if passed < timedelta(minutes=2):
            return self.seconds_ago.format(count=int(passed.total_seconds()))
        if passed < timedelta(hours=2):
            return self.minutes_ago.format(count=int(passed.total_seconds() // 60))
        if passed < timedelta(days=2):
            return self.hours_ago.format(count=int(passed.total_seconds() // 3600))
        return self.days_ago.format(count=passed.days)

    def named(self, kind: str, name: str) -> str:
        """Return the text of a kind ("state", "task", "part") for a name from the database, or the name itself."""
        key = f"{kind}_{name}"
        return str(getattr(self, key)) if key in {field.name for field in fields(self)} else name


def percent(share: float | None) -> str:
    """Write a share, 0 to 1, as people read it."""
    return "–" if share is None else f"{100 * share:.1f} %"


def languages(accepted: str) -> list[str]:
    """Return the languages of an `Accept-Language` header, best first, without their regions (RFC 9110, 12.5.4)."""
    found: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted[:1000].split(",")):
        tag, _, weight = part.partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            quality = 0.0
        if tag.strip() and quality > 0:
            found.append((-quality, place, tag.strip().partition("-")[0].lower()))
    return [language for _, _, language in sorted(found)]


def texts_for(accepted: str) -> Texts:
    """Return the texts for an `Accept-Language` header: the first language of it that there is, else English."""
    from fedwon.server.page.english import ENGLISH
    from fedwon.server.page.japanese import JAPANESE

    known = {"en": ENGLISH, "ja": JAPANESE}
    return next((known[language] for language in languages(accepted) if language in known), ENGLISH)
