"""How many rounds a site has trained in within a day, kept over restarts: `limits.rounds_per_day`.

A round is what is done from one model under one name. It counts when it begins; it may go on after the box went down
or was told to stop. One that came to its end counts anew when it is asked for again: a server that reuses a name gets
no rounds for nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedwon.client.training.progress import Cancelled
from fedwon.common.errors import BeyondLimits
from fedwon.common.files import write_atomic
from fedwon.common.system_errors import storage_error

DAY_SECONDS = 86_400.0
TRAINED = "trained.json"
"""File in the site's journal: when each round of the last day was begun."""
_ENDED = " ended "


class DayCount:
    """The rounds of the last 24 hours.

    Args:
        journal: the folder of the file.
        most: rounds within any 24 hours; None: any number, and nothing is kept.
        clock: seconds since 1970.
    """

    def __init__(self, journal: Path, most: int | None, clock: Callable[[], float] = time.time) -> None:
        self._file, self._most, self._clock = journal / TRAINED, most, clock

    @contextmanager
    def round(self, name: str) -> Iterator[None]:
        """Count a round, and that it came to its end.

        Args:
            name: of the task and its model.

        Raises:
            BeyondLimits: it would be one too many.
            StorageError: the count cannot be kept.
        """
        if self._most is None:
            yield
            return
        self._begin(name, self._most)
        try:
            yield
        except Cancelled:  # the site stops, or the link broke: it may go on
            raise
        except BaseException:
            self._end(name)
            raise
        self._end(name)

    def _begin(self, name: str, most: int) -> None:
        begun, now = self._begun(), self._clock()
        if name in begun:  # it goes on
            return
        if len(begun) >= most:
            free = (min(begun.values()) + DAY_SECONDS - now) / 3600
            raise BeyondLimits(
                f"This site trains in {most} rounds a day at most (`limits.rounds_per_day` in client.yaml); the next "
                f"one may be in {free:.1f} hours."
            )
        self._keep({**begun, name: now})

    def _end(self, name: str) -> None:
        begun = self._begun()
        if (moment := begun.pop(name, None)) is not None:
            ended = sum(other.startswith(name + _ENDED) for other in begun)
            self._keep({**begun, f"{name}{_ENDED}{ended}": moment})

    def _keep(self, begun: dict[str, float]) -> None:
        write_atomic(self._file, json.dumps(begun).encode())

    def _begun(self) -> dict[str, float]:
        """When each round of the last day was begun; a file that cannot be understood counts as empty."""
        try:
            content = json.loads(self._file.read_bytes())
            found = {str(name): float(moment) for name, moment in content.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise storage_error(error, f"reading {self._file}") from None
        except (ValueError, TypeError, AttributeError):
            return {}
        now = self._clock()
        return {name: moment for name, moment in found.items() if 0 <= now - moment < DAY_SECONDS}
