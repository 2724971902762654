"""The open tasks, by name, by site and by model: what a call needs is found without a look at all of them.

With a thousand sites each call would otherwise look at a thousand tasks, and a round at a million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Protocol, TypeVar

from fedwon.common.arrays import Blob


class Assigned(Protocol):
    """What the book needs to know of a task; neither changes while it is in the book."""

    @property
    def site(self) -> str:
        """Whose task it is."""

    @property
    def files(self) -> Sequence[Blob]:
        """The model that it is about, in each form in which it may be fetched."""


T = TypeVar("T", bound=Assigned)


class TaskBook(MutableMapping[str, T]):
    """Tasks by name, in the order in which they came."""

    def __init__(self) -> None:
        self._tasks: dict[str, T] = {}
        self._of_site: dict[str, dict[str, T]] = {}
        self._about: Counter[str] = Counter()

    def of_site(self, site: str) -> list[T]:
        """Return a site's tasks, in the order in which they came."""
        return list(self._of_site.get(site, {}).values())

    def about(self, digest: str) -> int:
        """Return how many tasks, of whatever site, are about a model or another file of theirs."""
        return self._about[digest]

    def __getitem__(self, name: str) -> T:
        return self._tasks[name]

    def __setitem__(self, name: str, task: T) -> None:
        if name in self._tasks:
            del self[name]
        self._tasks[name] = task
        self._of_site.setdefault(task.site, {})[name] = task
        self._about.update(blob.digest for blob in task.files)

    def __delitem__(self, name: str) -> None:
        self._leave(name, self._tasks.pop(name))

    def _leave(self, name: str, task: T) -> None:
        of_site = self._of_site[task.site]
        del of_site[name]
        if not of_site:
            del self._of_site[task.site]
        for blob in task.files:
            self._about[blob.digest] -= 1
            if not self._about[blob.digest]:
                del self._about[blob.digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def clear(self) -> None:
        """Forget all tasks."""
        self._tasks.clear()
        self._of_site.clear()
        self._about.clear()
