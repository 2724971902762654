"""A copy is never trained on and tested with."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedwon.client.images.listing import list_site
from fedwon.server.comparison.dealing import TEST_SHARE, deal_out, shared_contents, write_lines
from fedwon.server.comparison.looking import LineImages


def line(name, rows, pools=None):
    """A line of images given as (class, content)."""
    made = LineImages(name)
    for index, (kind, content) in enumerate(rows):
        made.listed[kind] += 1
        made.classes.append(kind)
        made.pools.append(pools[index] if pools else "train")
        made.digests.append(str(content))
        made.sizes.append((8, 8))
        made.grey.append(True)
        made.pixels.append(np.full((1, 8, 8), content % 256, dtype=np.uint8))
    return made


images = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=0, max_size=30)
brought = st.sampled_from(["train", "train", "test"])


@given(st.data())
def test_no_content_is_on_both_sides(data):
    lines = {}
    for name in ("one", "two", "three"):
        rows = data.draw(images)
        lines[name] = line(name, rows, [data.draw(brought) for _ in rows])
    dealt = deal_out(lines)
    trained = {lines[name].digests[row] for name in lines for row in dealt[name].train}
    tested = {lines[name].digests[row] for name in lines for row in dealt[name].test}
    assert not trained & tested
    for name, made in lines.items():
        parts = dealt[name]
        digests = [made.digests[row] for row in (*parts.train, *parts.test)]
        assert len(digests) == len(set(digests)), "a copy counts once"
        assert len(digests) + parts.copies + parts.leaked == len(made)


def test_a_third_of_each_class_tests():
    rows = [("good", number) for number in range(30)] + [("bad", 100 + number) for number in range(6)]
    made = {"a": line("a", rows), "b": line("b", [(kind, content + 1000) for kind, content in rows])}
    for name, parts in deal_out(made).items():
        tested = [made[name].classes[row] for row in parts.test]
        assert (tested.count("good"), tested.count("bad")) == (round(30 * TEST_SHARE), 2)


def test_what_a_line_brings_for_testing_is_kept_and_its_training_copies_go():
    rows = [("good", 1), ("good", 2), ("bad", 3), ("good", 2), ("bad", 4)]
    parts = deal_out({"a": line("a", rows, ["train", "train", "train", "test", "test"])})["a"]
    assert [rows[row][1] for row in parts.test] == [2, 4]
    assert [rows[row][1] for row in parts.train] == [1, 3]
    assert (parts.copies, parts.leaked) == (1, 0)


def test_one_line_tests_with_what_another_trains_on():
    lines = {"a": line("a", [("good", 1), ("bad", 2)], ["train", "test"]), "b": line("b", [("good", 2), ("bad", 3)])}
    parts = deal_out(lines)["b"]
    assert [lines["b"].digests[row] for row in parts.test] == ["2"]


def test_one_image_under_two_classes_is_a_contradiction():
    parts = deal_out({"a": line("a", [("good", 1), ("bad", 1), ("bad", 2), ("good", 3)])})["a"]
    assert (parts.copies, parts.contradictions) == (1, 1)


def test_shared_contents_count_each_content_once():
    lines = {"a": line("a", [("x", 1), ("x", 1), ("x", 2)]), "b": line("b", [("x", 1)]), "c": line("c", [("x", 9)])}
    assert shared_contents(lines) == [("a", "b", 1)]


def test_what_is_written_any_site_can_read(tmp_path):
    lines = {"a line": line("a line", [("good", number) for number in range(9)] + [("bad", 20), ("bad", 21)])}
    dealt = deal_out(lines)
    data = write_lines(lines, dealt, tmp_path / "images")["a line"]
    listing = list_site(data, tmp_path)
    assert sorted(listing) == ["test", "train"]
    assert listing["train"].count()["good"] == 6
    first = listing["train"].source.read(0)
    assert first.shape == (1, 8, 8)
    assert int(first[0, 0, 0]) == int(lines["a line"].pixels[dealt["a line"].train[0]][0, 0, 0])
