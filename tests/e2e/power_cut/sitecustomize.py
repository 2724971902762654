"""A power cut at a named point of a process, for the tests of crashes.

Python imports a `sitecustomize` that it finds on its path; the tests put this folder there, for the one process that is
to die. What is installed knows nothing of it: it wraps a function when its module is loaded, and kills the process, as
`kill -9` does, before or after the n-th call. `FEDWON_TEST_FAULT` is JSON:

    {"point": "fedwon.server.runs.run:Run._checkpoint", "when": "after", "nth": 2, "set": {"module:NAME": value}}

`set` replaces constants of modules, such as the size of a chunk, so that a small model has many.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import os
import signal
import sys

_FAULT = json.loads(os.environ.get("FEDWON_TEST_FAULT", "null"))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Counter:
    """Dies at the n-th call of either end of a function."""

    def __init__(self, when: str, nth: int) -> None:
        self.when, self.left = when, nth

    def pass_by(self, where: str) -> None:
        if where == self.when:
            self.left -= 1
            if self.left == 0:
                _die()


def _wrapped(function, counter: _Counter):
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wait(*arguments, **named):
            counter.pass_by("before")
            result = await function(*arguments, **named)
            counter.pass_by("after")
            return result

        return wait

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def pieces(*arguments, **named):
            counter.pass_by("before")
            async for piece in function(*arguments, **named):
                yield piece
                counter.pass_by("after")  # each piece counts

        return pieces

    @functools.wraps(function)
    def call(*arguments, **named):
        counter.pass_by("before")
        result = function(*arguments, **named)
        counter.pass_by("after")
        return result

    return call


def _patch(module) -> None:
    for where, value in _FAULT.get("set", {}).items():
        name, _, constant = where.partition(":")
        if name == module.__name__:
            getattr(module, constant)  # a constant that is not there any more is a broken test
            setattr(module, constant, value)
    name, _, path = _FAULT["point"].partition(":")
    if name == module.__name__:
        *owners, last = path.split(".")
        holder = functools.reduce(getattr, owners, module)
        setattr(holder, last, _wrapped(getattr(holder, last), _Counter(_FAULT["when"], _FAULT["nth"])))


class _Finder:
    """Lets the other finders find a module, and patches it as soon as it has been loaded."""

    def __init__(self) -> None:
        self.names = {where.partition(":")[0] for where in (_FAULT["point"], *_FAULT.get("set", {}))}

    def find_spec(self, name, path=None, target=None):
        if name not in self.names:
            return None
        self.names.remove(name)  # so that the others are asked below
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _patch(module)

        spec.loader.exec_module = exec_module
        return spec


if _FAULT is not None:
    sys.meta_path.insert(0, _Finder())
