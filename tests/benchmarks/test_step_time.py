"""The command that measures training steps: paired ratios, peaks, and what it keeps and writes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import marked, step_time
from benchmarks.stepping import comparing, forms, peaks, timing
from benchmarks.stepping.circumstances import processor
from fedwon.models import WSConv2d, build_model

pytestmark = pytest.mark.usefixtures("one_thread")
KEPT = [name for name, part in step_time.PARTS.items() if (step_time.RESULTS / part.result).exists()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A page and a folder of results of its own, and a measurement that takes no time."""
    part = step_time.Part("x.json", 2, lambda names, seconds: {"names": list(names)}, lambda found: str(found["names"]))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{part.mark}\nold\n{part.mark}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(step_time, "RESULTS", tmp_path)
    monkeypatch.setattr(step_time, "PAGE", page)
    monkeypatch.setattr(step_time, "PARTS", {"steps": part})
    monkeypatch.setattr(step_time, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return page


@pytest.mark.parametrize("name", KEPT)
def test_the_page_shows_what_is_kept(name):
    part = step_time.PARTS[name]
    found = part.kept()
    if "arguments" in found:  # step_time.json as first committed has other columns and is shown as it was
        assert part.page(found) == marked.between(step_time.PAGE, part.mark)
    assert set(found["networks"])


@pytest.mark.parametrize(
    "less", [["--network", "digit_cnn"], ["--threads", "2"], ["--default-memory"], ["--seconds", "1"]]
)
def test_part_of_the_figures_takes_the_place_of_none(place, less, capsys):
    step_time.main(less)
    assert not (place.parent / "x.json").exists()
    with pytest.raises(SystemExit):
        step_time.main([*less, "--write"])
    assert "--write takes whole figures" in capsys.readouterr().err
    assert "old" in place.read_text(encoding="utf-8")


def test_whole_figures_are_kept_with_their_circumstances_and_written(place, capsys):
    step_time.main(["--write", "--json"])
    found = json.loads((place.parent / "x.json").read_text(encoding="utf-8"))
    assert found == json.loads(capsys.readouterr().out)
    assert found["arguments"] == {"seconds": 2, "threads": 1, "network": None, "default_memory": False}
    assert found["elapsed_seconds"] >= 0
    mark = step_time.PARTS["steps"].mark
    text = place.read_text(encoding="utf-8")
    assert text == f"before\n{mark}\n\n{found['names']}\n\n{mark}\nafter\n"
    assert marked.between(place, mark) == str(found["names"])
    step_time.main(["--kept", "--write"])
    assert place.read_text(encoding="utf-8") == text


def test_a_page_without_its_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("one <!-- x --> only", encoding="utf-8")
    with pytest.raises(ValueError, match="1 times"):
        marked.rewrite(page, "<!-- x -->", "text")
    assert page.read_text(encoding="utf-8") == "one <!-- x --> only"


def test_things_are_taken_in_turn_after_one_call_to_warm_up():
    calls = []
    times = timing.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0, fewest=3)
    assert calls == ["a", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]


def test_ratios_are_paired_and_not_those_of_medians():
    # the machine is ten times slower in the second turn: a ratio of medians would see 20, the pairs see 2
    assert timing.ratios([2.0, 20.0, 20.0], [1.0, 10.0, 1.0]) == [2.0, 2.0, 20.0]


def test_the_standardized_step_is_compared_with_batch_norms_turn_by_turn():
    times = {"plain": [1.0, 10.0, 1.0], "standardized": [3.0, 30.0, 3.0], "batch norm": [2.0, 20.0, 1.0]}
    found = comparing.summary(times)
    assert found["standardized"][comparing.AGAINST] == [1.5, 1.5, 3.0]
    assert found["standardized"]["ratio"] == [3.0, 3.0, 3.0]
    del times["batch norm"]
    assert comparing.AGAINST not in comparing.summary(times)["standardized"]


def small(monkeypatch):
    """A network of a few weights, which says what was made of it."""
    made = build_model("digit_cnn", normalization="none", image_size=28, width=0.05)
    monkeypatch.setattr(comparing, "network_of", lambda name, form: made)
    monkeypatch.setattr(comparing, "in_turn", lambda steps, seconds: timing.in_turn(steps, 0, fewest=2))


def test_every_form_and_batch_size_is_measured_but_batch_norm_on_one_image(monkeypatch):
    small(monkeypatch)
    forgotten = {"megabytes": {str(batch): 10.0 * batch for batch in forms.BATCHES if batch > 1}, "forgotten": True}
    monkeypatch.setattr(comparing, "peaks_of", lambda name, form: forgotten)
    monkeypatch.setattr(comparing, "BATCHES", (1, 2))
    found = comparing.measure(["digit_cnn"], 0)
    measured = {batch: set(of) for batch, of in found["networks"]["digit_cnn"].items()}
    assert measured == {"1": set(forms.FORMS) - {"batch norm"}, "2": set(forms.FORMS)}
    first, second = comparing.table(found).splitlines()[2:]
    assert first.endswith("| - | - | -, -, - |")
    assert second.endswith(") | 20, 20, 20 |")


def test_verdicts_name_who_met_the_aim_and_who_missed_it():
    row = {"standardized": {"ratio": [0, 1.05, 9], comparing.AGAINST: [0, 1.0, 9]}}
    worse = {"standardized": {"ratio": [0, 1.151, 9], comparing.AGAINST: [0, 0.999, 9]}}
    networks = {name: {str(batch): of for batch in forms.BATCHES} for name, of in (("a", row), ("b", worse))}
    lines = comparing.verdicts({"networks": networks}).splitlines()
    assert lines[0].endswith("at most 1.05 at batch 32: met by `a` (1.050); missed by `b` (1.151).")
    assert lines[1].endswith("at most 1.15 at batch 1: met by `a` (1.050); missed by `b` (1.151).")
    assert [line.endswith("met by `b` (0.999); missed by `a` (1.000).") for line in lines[2:]] == [True] * 3


def test_plain_puts_ordinary_convolutions_of_the_same_shape():
    model = forms.plain(build_model("mobilenet_v2", normalization="none", image_size=32, width=0.25))
    assert not [layer for layer in model.modules() if isinstance(layer, WSConv2d)]
    assert {layer.groups for layer in model.modules() if isinstance(layer, nn.Conv2d)} > {1}
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_step_moves_the_weights_against_the_gradient(monkeypatch):
    monkeypatch.setattr(forms, "TRAINING", forms.TRAINING.model_copy(update={"lr": 0.5}))
    model = build_model("digit_cnn", normalization="none", image_size=28, width=0.05)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    forms.step_of(model, "digit_cnn", "standardized", 2)()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(new, old - 0.5 * new.grad)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_peak_is_forgotten_where_the_kernel_lets_itself_be_told(tmp_path):
    block = torch.ones(2**25)  # 128 MiB
    high = peaks.peak()
    del block
    if peaks.forget_peak():
        assert peaks.peak() < high - 64
    assert not peaks.forget_peak(tmp_path / "none" / "clear_refs")


def test_peaks_go_from_small_to_large_batches(monkeypatch):
    taken = []
    monkeypatch.setattr(peaks, "network_of", lambda name, form: nn.Linear(1, 1))
    monkeypatch.setattr(peaks, "step_of", lambda model, name, form, batch: lambda: taken.append(batch))
    monkeypatch.setattr(peaks, "forget_peak", lambda: taken.append("forgotten") or len(taken) > 1)
    found = peaks.peaks_here("digit_cnn", "batch norm")
    assert taken == ["forgotten", 2, 2, "forgotten", 8, 8, "forgotten", 32, 32]
    assert list(found["megabytes"]) == ["2", "8", "32"]
    assert not found["forgotten"]


def test_figures_are_whole_with_the_page_s_own_arguments_only():
    part = replace(step_time.PARTS["steps"], seconds=40)
    own = {"threads": 1, "default_memory": False, "network": None, "seconds": 40}
    assert step_time.is_whole(part, argparse.Namespace(**own))
    assert step_time.is_whole(part, argparse.Namespace(**{**own, "seconds": 80}))
    assert not step_time.is_whole(part, argparse.Namespace(**{**own, "seconds": 39}))


def test_the_processor_is_named_where_the_system_names_it(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Another\n", encoding="utf-8")
    assert processor(file) == "Some CPU @ 2 GHz"
    assert processor(tmp_path / "none") == "unknown"
