"""The tree of errors: codes, slugs, and its drawing."""

import errno
import re

import pytest

from fedwon.common import errors
from fedwon.common.errors import DiskFull, FedwonError, StorageError, all_errors, by_slug
from fedwon.common.system_errors import storage_error


def test_codes_and_slugs_are_unique():
    kinds = all_errors()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.slug for kind in kinds}) == len(kinds)
    assert len(kinds) > 25


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.slug)
def test_each_error(kind):
    # 2 is a wrong command line, 126 and above are the shell's
    assert kind.code == 1 or 10 <= kind.code < 126
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.slug)
    assert by_slug(kind.slug) is kind
    assert kind("x").page == f"docs/errors/{kind.slug}.md"
    assert kind("what").hint == kind.default_hint
    assert kind("what", hint="so").hint == "so"
    assert str(kind("what")) == "what"
    if kind is not FedwonError:
        branch = kind.__mro__[kind.__mro__.index(FedwonError) - 1]
        assert kind.code // 10 == branch.code // 10


def test_the_drawing_is_the_tree():
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__))
    assert drawn == {kind.__name__: str(kind.code) for kind in all_errors() if kind is not FedwonError}


def test_an_error_that_this_version_does_not_know():
    assert by_slug("from-the-future") is FedwonError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(number):
    error = storage_error(OSError(number, "text"), "writing /x/y")
    assert isinstance(error, DiskFull)
    assert error.message == "No space left on the disk while writing /x/y."


def test_other_system_errors():
    error = storage_error(PermissionError(errno.EACCES, "Permission denied"), "reading /x")
    assert type(error) is StorageError
    assert error.message == "Permission denied while reading /x."
    assert storage_error(OSError("odd"), "reading /x").message == "odd while reading /x."
