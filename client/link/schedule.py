"""When a site may work: quiet hours on the wall clock, and a file that says that the line runs.

A window is open where the wall clock of its zone shows a time in it. Everything follows from that one sentence: in the
night in which clocks go forward, a window inside the missing hour does not open; in the one in which they go back, a
window inside the hour that comes twice is open twice. Nothing is remembered from one look to the next, so a clock that
jumps is right again at the next look.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as wall_time
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, field_validator

from fedwon.common.config import Settings

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LOCAL = "local"
TIME = r"^([01]\d|2[0-3]):[0-5]\d$"
HORIZON_DAYS = 22
"""So far ahead the next change is looked for: a weekly window may miss its day once, where clocks go forward or where
a zone leaves a whole day out, as Samoa did; not three times."""


def _quoted(value: object) -> object:
    """Refuse what YAML makes of 22:00 without quotes: 1320, a number to the base of 60."""
    if isinstance(value, int):
        raise ValueError('put the time into quotes, "22:00": YAML reads it as a number without them')  # noqa: TRY004
    return value


TimeOfDay = Annotated[str, BeforeValidator(_quoted), Field(pattern=TIME)]


class WindowConfig(Settings):
    """Hours in which the site may work."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    """Days on which the window begins; it may end on the next one."""
    start: TimeOfDay
    """Wall-clock time at which it begins, in quotes."""
    end: TimeOfDay
    """Wall-clock time at which it ends; not after `start`: on the next day. The same as `start`: 24 hours."""


class ScheduleConfig(Settings):
    """When the site may work; the server neither asks it nor waits for it at other times."""

    windows: tuple[WindowConfig, ...] = ()
    """Quiet hours, a list of windows with `days`, `start` and `end`; the site is available in any of them. Empty: at
    any time."""
    zone: str = LOCAL
    """Whose wall clock the windows are on: `local`, which is the machine's, or a name such as `Europe/Berlin`."""
    busy_file: str | None = None
    """A file that is there while the line runs: then the site is not available, whatever the hour. Relative paths
    start at client.yaml. A file that cannot be looked for counts as there."""
    when_over: Literal["finish", "give_up"] = "finish"
    """What becomes of a task in hand when the site stops being available."""

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        zone_of(zone)
        return zone


class Availability(NamedTuple):
    """Whether a site may work now.

    Attributes:
        available: whether it may.
        seconds: until that changes as far as the windows say; None where they do not say.
        reason: why it may not, in words.
    """

    available: bool
    seconds: float | None = None
    reason: str = ""


def zone_of(name: str) -> tzinfo | None:
    """Return a time zone; None for the machine's own.

    Raises:
        ValueError: this machine does not know it.
    """
    if name in {LOCAL, "UTC"}:
        return None if name == LOCAL else UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"no time zone `{name}` is known here; write `local`, `UTC`, or a name as in `timedatectl list-timezones` "
            "(a small system may have to install its package tzdata)"
        ) from None


class Schedule:
    """A site's schedule.

    Args:
        config: what client.yaml says.
        folder: where a relative `busy_file` starts.
    """

    def __init__(self, config: ScheduleConfig, folder: Path) -> None:
        self.config = config
        self._zone = zone_of(config.zone)
        self._busy = None if config.busy_file is None else folder / config.busy_file

    def at(self, moment: float) -> Availability:
        """Say whether the site may work at a moment.

        Args:
            moment: seconds since 1970, as of `time.time()`. The busy file is looked for now, whatever the moment.
        """
        is_open = self._open(moment)
        change = self.next_change(moment)
        seconds = None if change is None else change - moment
        busy = self._is_busy()
        if busy:  # when the line stops nobody knows, but not before the next window
            return Availability(False, None if is_open else seconds, busy)
        return Availability(is_open, seconds, "" if is_open else "outside its quiet hours")

    def _is_busy(self) -> str:
        """Say that the line runs; nothing where it does not. The server need not know where a site keeps its files."""
        if self._busy is None:
            return ""
        try:
            self._busy.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"its busy file cannot be looked for: {error.strerror}"
        return "its line runs"

    def _open(self, moment: float) -> bool:
        if not self.config.windows:
            return True
        wall = datetime.fromtimestamp(moment, self._zone)
        return any(_shows(window, wall) for window in self.config.windows)

    def next_change(self, moment: float) -> float | None:
        """Return the first moment after this one at which a window opens or closes; None where none ever does."""
        if not self.config.windows:
            return None
        now = self._open(moment)
        later = (candidate for candidate in sorted(set(self._candidates(moment))) if candidate > moment)
        return next((candidate for candidate in later if self._open(candidate) != now), None)

    def _candidates(self, moment: float) -> Iterator[float]:
        """Moments at which something may change: the beginnings and ends of windows, and where clocks are changed."""
        today = datetime.fromtimestamp(moment, self._zone).date()
        times = {_time(text) for window in self.config.windows for text in (window.start, window.end)}
        times.add(wall_time())  # a day begins, where a window of 24 hours does not go on
        for day in range(-1, HORIZON_DAYS):
            for at in times:
                yield from self._moments(today + timedelta(days=day), at)
            yield from self._clock_change(moment + 86400 * day, moment + 86400 * (day + 1))

    def _moments(self, day: date, at: wall_time) -> Iterator[float]:
        """The one or two moments at which the wall clock shows a time; for one that is left out, what is nearest."""
        wall = datetime.combine(day, at, self._zone)
        yield wall.timestamp()
        yield wall.replace(fold=1).timestamp()

    def _clock_change(self, low: float, high: float) -> Iterator[float]:
        """The moment between two at which the zone's offset changes, if it does, to the second."""
        before = self._offset(low)
        if self._offset(high) == before:
            return
        least, most = int(low), int(high) + 1
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self._offset(middle) == before else (least, middle)
        yield float(most)

    def _offset(self, moment: float) -> timedelta:
        wall = datetime.fromtimestamp(moment, self._zone).replace(tzinfo=None)
        return wall - datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)


def _shows(window: WindowConfig, wall: datetime) -> bool:
    """Whether the wall clock shows a time in a window."""
    at, start, end = wall.time().replace(tzinfo=None), _time(window.start), _time(window.end)
    today, yesterday = (DAYS[(wall.weekday() - back) % 7] in window.days for back in (0, 1))
    if start < end:
        return today and start <= at < end
    return (today and at >= start) or (yesterday and at < end)


def _time(text: str) -> wall_time:
    return wall_time.fromisoformat(text)
