"""The pictures of docs/results.md."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from benchmarks.paper.curves import learning_curve, svg


def parse(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - our own


SPACE = {"s": "http://www.w3.org/2000/svg"}


def test_a_curve_is_the_mean_over_sites_and_seeds() -> None:
    first = {"validation": {"0": {"a": [1, 10], "b": [5, 10]}, "2": {"a": [5, 10], "b": [9, 10]}, "10": {"a": [1, 1]}}}
    second = {"validation": {"0": {"a": [1, 10], "b": [1, 10]}, "2": {"a": [10, 10], "b": [8, 10]}}}
    assert learning_curve([first, second]) == [(0, pytest.approx(0.2)), (2, pytest.approx(0.8))]
    assert [number for number, _ in learning_curve([first])] == [0, 2, 10]
    assert learning_curve([]) == []


def test_a_site_without_validation_images_does_not_count() -> None:
    run = {"validation": {"1": {"a": [1, 2], "b": [0, 0]}, "2": {"a": [0, 0]}}}
    assert learning_curve([run]) == [(1, 0.5)]


def test_the_picture_is_well_formed_and_shows_each_row_once() -> None:
    curves = {f"row <{index}> & more": [(0.0, 0.0), (50.0, index / 10)] for index in range(9)}
    root = parse(svg("<title>", {**curves, "nothing": []}))
    assert root.findtext("s:title", namespaces=SPACE) == "<title>"
    labels = [text.text for text in root.findall("s:text", SPACE)]
    assert [label for label in labels if label and "row" in label] == list(curves)
    lines = [line.get("points", "").split() for line in root.findall("s:polyline", SPACE)][::2]
    ends = [tuple(map(float, points[-1].split(","))) for points in lines]
    assert len({x for x, _ in ends}) == 1
    heights = [y for _, y in ends]
    assert heights == sorted(heights, reverse=True)  # the better, the higher
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in root.findall("s:polyline", SPACE)}) == 9


def test_nothing_at_all_is_still_a_picture() -> None:
    assert parse(svg("none", {})).findall("s:polyline", SPACE) == []
