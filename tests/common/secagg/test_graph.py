"""Who masks with whom."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.secagg.graph import enough_neighbours, neighbours, threshold


@given(st.integers(2, 40), st.integers(1, 50), st.integers(0, 10**6))
def test_it_is_regular_and_mutual(count, degree, seed):
    sites = [f"s{number}" for number in range(count)]
    graph = neighbours(sites, degree, random.Random(seed).shuffle)
    expected = min(degree + degree % 2, count - 1)
    assert {len(around) for around in graph.values()} == {expected}
    assert all(site in graph[other] for site, around in graph.items() for other in around)
    assert all(site not in around and list(around) == sorted(around) for site, around in graph.items())


@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_all_hang_together(count, degree, seed):
    graph = neighbours([f"s{number}" for number in range(count)], degree, random.Random(seed).shuffle)
    reached, edge = set(), ["s0"]
    while edge:
        site = edge.pop()
        if site not in reached:
            reached.add(site)
            edge += graph[site]
    assert len(reached) == count


def test_it_is_drawn_anew_each_time():
    sites = [f"s{number}" for number in range(30)]
    assert neighbours(sites, 4) != neighbours(sites, 4)


def test_more_than_half_and_never_more_than_a_lost_third_leaves():
    for holders in range(3, 200):
        assert threshold(holders) > holders / 2
        assert threshold(holders) <= holders - holders // 3


def test_few_sites_are_all_neighbours_and_many_are_not():
    assert [enough_neighbours(count) for count in (3, 16, 64)] == [2, 15, 63]
    assert enough_neighbours(1000) < 999
