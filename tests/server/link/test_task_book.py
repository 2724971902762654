"""Tasks by site and by model, against a look at all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedwon.common.arrays import Blob
from fedwon.server.link.task_book import TaskBook


@dataclass(eq=False)
class Job:
    site: str
    files: tuple[Blob, ...]


SITES, DIGESTS, NAMES = ["a", "b", "c"], ["1" * 64, "2" * 64], ["t1", "t2", "t3", "t4", "t5"]
files = st.lists(st.sampled_from(DIGESTS), unique=True).map(
    lambda found: tuple(Blob(Path("x"), one, 1) for one in found)
)
steps = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(NAMES), st.builds(Job, st.sampled_from(SITES), files)),
    st.tuples(st.just("pop"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=25))
def test_the_book_finds_what_a_look_at_all_tasks_finds(course):
    book: TaskBook[Job] = TaskBook()
    plain: dict[str, Job] = {}
    for what, name, job in course:
        if what == "set":
            plain.pop(name, None)  # one that is handed out anew comes last
            book[name] = plain[name] = job
        elif what == "pop":
            assert book.pop(name, None) is plain.pop(name, None)
        else:
            book.clear()
            plain.clear()
        assert list(book.items()) == list(plain.items())
        for site in SITES:
            assert book.of_site(site) == [job for job in plain.values() if job.site == site]
        for digest in DIGESTS:
            about = [job for job in plain.values() if any(blob.digest == digest for blob in job.files)]
            assert book.about(digest) == len(about)
    for name in list(plain):
        del book[name]
    assert not book._of_site  # sites that have left leave nothing behind
    assert not book._about
