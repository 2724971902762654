"""When a site may work: against a twin that walks minute by minute, also where clocks are changed."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedwon.client.config import ClientConfig
from fedwon.client.link.schedule import DAYS, Schedule, ScheduleConfig, WindowConfig
from fedwon.common.config import dump, load, parse
from fedwon.common.errors import ConfigError

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin forward
    datetime(2026, 10, 25, 1, tzinfo=UTC),  # and back
    datetime(2026, 11, 1, 6, tzinfo=UTC),  # New York back
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe, half an hour back
    datetime(2011, 12, 30, 10, tzinfo=UTC),  # Apia leaves a Friday out
)
WALK_DAYS = 16
CLIENT = {"server": "server:8470", "data": {"path": "images"}}


def windows(wall_clock, config):
    """The hours around a moment, one by one."""
    for back in range(3):
        day = (wall_clock - timedelta(days=back)).replace(hour=0, minute=0, second=0, microsecond=0)
        for window in config.windows:
            if DAYS[day.weekday()] in window.days:
                start, end = (
                    day + timedelta(hours=int(text[:2]), minutes=int(text[3:])) for text in (window.start, window.end)
                )
                yield start, end if end > start else end + timedelta(days=1)


def twin_open(config, moment):
    wall = datetime.fromtimestamp(moment, ZoneInfo(config.zone)).replace(tzinfo=None)
    return any(start <= wall < end for start, end in windows(wall, config))


def twin_change(config, moment):
    now = twin_open(config, moment)
    minute = (int(moment) // 60 + 1) * 60
    for step in range(WALK_DAYS * 1440):
        if twin_open(config, minute + 60 * step) != now:
            return minute + 60 * step
    return None


def clock(text):
    return st.one_of(st.sampled_from(text), st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59)))


WINDOW = st.builds(
    WindowConfig,
    days=st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True).map(tuple),
    start=clock(["22:00", "02:10", "00:00", "02:00", "01:30"]),
    end=clock(["05:00", "02:50", "00:00", "03:00", "02:00"]),
)
MOMENT = st.one_of(
    st.builds(lambda change, by: (change + timedelta(minutes=by)).timestamp(), st.sampled_from(CHANGES),
              st.integers(-3000, 3000)),
    st.integers(1262304000, 2208988800),
)  # fmt: skip


def of(*rows, zone="UTC", **more):
    made = tuple(WindowConfig(days=days, start=start, end=end) for days, start, end in rows)
    return ScheduleConfig(windows=made, zone=zone, **more)


@settings(max_examples=60, deadline=None)
@given(st.lists(WINDOW, min_size=1, max_size=3).map(tuple), st.sampled_from(ZONES), MOMENT)
@example((WindowConfig(days=("sun",), start="02:10", end="02:50"),), "Europe/Berlin", CHANGES[0].timestamp() - 60)
@example((WindowConfig(days=("sun",), start="02:10", end="02:50"),), "Europe/Berlin", CHANGES[1].timestamp() - 60)
@example((WindowConfig(days=("sun",), start="02:30", end="10:00"),), "Europe/Berlin", CHANGES[0].timestamp() - 60)
@example((WindowConfig(days=("sat",), start="22:00", end="02:30"),), "Europe/Berlin", CHANGES[0].timestamp() - 60)
@example((WindowConfig(days=("fri",), start="00:00", end="00:00"),), "Pacific/Apia", CHANGES[4].timestamp() - 60)
@example((WindowConfig(start="00:00", end="00:00"),), "UTC", 1.5e9)
def test_it_is_as_one_who_walks_minute_by_minute_finds_it(rows, zone, moment):
    config = ScheduleConfig(windows=rows, zone=zone)
    found = Schedule(config, None).at(moment)
    assert found.available == twin_open(config, moment)
    change = twin_change(config, moment)
    assert found.seconds == (None if change is None else change - moment)
    assert bool(found.reason) == (not found.available)


def test_over_midnight_the_window_is_its_first_days():
    schedule = Schedule(of((("mon",), "22:00", "05:00")), None)
    monday = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    hours = [hour for hour in range(48) if schedule.at(monday + 3600 * hour).available]
    assert hours == list(range(22, 29))


def test_a_clock_that_is_set_is_right_at_the_next_look():
    schedule = Schedule(of((("mon",), "22:00", "05:00")), None)
    night, day = (datetime(2026, 11, 23, hour, tzinfo=UTC).timestamp() for hour in (23, 12))
    assert [schedule.at(moment).available for moment in (night, day, night)] == [True, False, True]
    assert schedule.at(day).seconds == 10 * 3600


def test_local_is_the_machines_own_zone(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        rows = (("sun",), "01:10", "01:50")
        local, named = (Schedule(of(rows, zone=zone), None) for zone in ("local", "America/New_York"))
        for minute in range(-200, 300, 7):
            moment = CHANGES[2].timestamp() + 60 * minute
            assert local.at(moment) == named.at(moment)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_file_says_that_the_line_runs(tmp_path):
    schedule = Schedule(ScheduleConfig(busy_file="busy"), tmp_path)
    assert schedule.at(0.0) == (True, None, "")
    (tmp_path / "busy").touch()
    assert schedule.at(0.0) == (False, None, "its line runs")
    (tmp_path / "busy").unlink()
    assert schedule.at(0.0).available


def test_while_it_is_there_outside_the_hours_the_next_hours_are_told(tmp_path):
    (tmp_path / "busy").touch()
    schedule = Schedule(of((("thu",), "10:00", "11:00"), busy_file="busy"), tmp_path)  # 1970 began on a Thursday
    assert schedule.at(9 * 3600.0)[:2] == (False, 3600.0)
    assert schedule.at(10 * 3600.0)[:2] == (False, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_file_that_cannot_be_looked_for_counts_as_there(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert not Schedule(ScheduleConfig(busy_file="closed/busy"), tmp_path).at(0.0).available


def test_a_name_that_is_too_long_cannot_be_looked_for(tmp_path):
    found = Schedule(ScheduleConfig(busy_file="x" * 300), tmp_path).at(0.0)
    assert not found.available
    assert found.reason == "its busy file cannot be looked for: File name too long"


# ---- client.yaml


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("{windows: [{start: 22:00, end: '05:00'}]}", 'put the time into quotes, "22:00"'),
        ("{windows: [{start: '25:00', end: '05:00'}]}", "`schedule.windows.0.start`"),
        ("{windows: [{start: '22:00'}]}", "`schedule.windows.0.end` is missing"),
        ("{windows: [{days: [monday], start: '22:00', end: '05:00'}]}", "`schedule.windows.0.days.0`"),
        ("{windows: [{day: [mon], start: '22:00', end: '05:00'}]}", "did you mean `days`?"),
        ("{windows: [{days: [], start: '22:00', end: '05:00'}]}", "`schedule.windows.0.days`"),
        ("{zone: Europe/Berln}", "no time zone `Europe/Berln` is known here"),
        ("{zone: ../../etc/passwd}", "is known here"),
        ("{when_over: stop}", "`schedule.when_over`"),
        ("{window: []}", "did you mean `windows`?"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, schedule, said):
    (tmp_path / "client.yaml").write_text(f"server: a:1\ndata: {{path: x}}\nschedule: {schedule}\n")
    with pytest.raises(ConfigError) as caught:
        load(ClientConfig, tmp_path / "client.yaml")
    assert said in caught.value.message


def test_it_is_read_as_it_was_written(tmp_path):
    windows_ = [{"days": ["mon", "tue"], "start": "22:00", "end": "05:00"}]
    config = parse(ClientConfig, {**CLIENT, "nice": 10, "schedule": {"windows": windows_, "zone": "UTC"}}, "test")
    (tmp_path / "client.yaml").write_text(dump(config))
    assert load(ClientConfig, tmp_path / "client.yaml") == config
    assert "schedule" not in "".join(config.for_node("site", tmp_path))
