"""What images a site has, as it travels."""

from __future__ import annotations

from fedwon.common.surveys import MOST, PARTS, UNTOLD, class_names, images_in, summed, told
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.surveys import LONGEST_NAME, MOST_CLASSES, survey_from_wire, survey_to_wire


def test_a_survey_travels_unchanged():
    survey = {"good": {"train": 3, "validation": 1, "test": 0}, "": {"train": 0, "validation": 0, "test": 2**40}}
    assert survey_from_wire(survey_to_wire(survey)) == survey
    assert survey_to_wire({"good": {"train": 3}}) == [pb.ClassCount(name="good", train=3)]


def test_a_flood_of_classes_and_long_names_are_cut():
    rows = (pb.ClassCount(name=f"{number:06}" + "x" * 10_000, train=1) for number in range(10**9))
    survey = survey_from_wire(rows)
    assert len(survey) == MOST_CLASSES
    assert {len(name) for name in survey} == {LONGEST_NAME}


def test_a_sum_stays_what_the_wire_can_carry():
    huge = survey_from_wire([pb.ClassCount(name="good", train=2**64 - 1)])
    together = summed([huge, huge, {"bad": {"test": 1}}])
    assert list(together) == ["bad", "good"]
    assert together["good"] == {"train": MOST, "validation": 0, "test": 0}
    assert survey_from_wire(survey_to_wire(together)) == together


def test_what_a_site_keeps_to_itself_is_how_many_images_each_class_has():
    survey = {"bad": {"train": 2, "validation": 1, "test": 0}, "good": {"train": 30, "validation": 4, "test": 5}}
    shown = told(survey, by_class=False)
    assert class_names(shown) == ["bad", "good"]
    assert {tuple(shown[name].values()) for name in class_names(shown)} == {(0, 0, 0)}
    assert shown[UNTOLD] == {"train": 32, "validation": 5, "test": 5}
    assert [images_in(shown, (part,)) for part in PARTS] == [images_in(survey, (part,)) for part in PARTS]
    assert told(shown, by_class=False) == shown
    assert told(survey, by_class=True) == survey
    assert class_names(summed([shown, {"ugly": {"train": 1}}])) == ["bad", "good", "ugly"]
