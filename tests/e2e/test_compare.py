"""`fedwon-server compare` as a person runs it, on tiny lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.server.comparison.lines_kit import make_line, make_lines

CHROMIUM = Path("/usr/bin/chromium")
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
BROWSER += ["--disable-component-update", "--disable-sync"]
LONG = 150
"""Seconds of patience; the budgets are far below it."""
COMMAND = [sys.executable, "-m", "fedwon.server.cli", "compare"]


def compare(data: Path, out: Path, *more: str, budget: str = "15s") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--data", str(data), "--out", str(out), "--budget", budget, *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison: its folder."""
    root = tmp_path_factory.mktemp("compare")
    data = make_lines(root / "lines", lines=3, count=20)
    (data / "line-1" / "good" / "broken.png").write_bytes(b"no image")
    done = compare(data, root / "out", "--lang", "ja")
    assert done.returncode == 0, done.stderr
    assert "report.ja.html" in done.stdout
    return root / "out"


def content(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_it_answers_and_says_what_was_left_out(compared: Path) -> None:
    report = content(compared)
    assert report["obstacle"] is None
    assert report["answer"]["code"]
    assert {row["code"] for row in report["cut"]} & {"cut_rounds", "cut_seeds", "cut_everything"}
    assert report["facts"]["lines"]["line-1"]["unreadable"] == 1
    assert not list((compared / "scratch").iterdir()), "models of runs are thrown away"


def test_a_second_call_goes_on(compared: Path) -> None:
    before = content(compared)
    done = compare(compared.parent / "lines", compared, "--json", budget="10s")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after == content(compared)
    assert len(after["outcomes"]["seeds"]) >= len(before["outcomes"]["seeds"])
    assert after["facts"] == before["facts"]


def test_another_folder_of_images_needs_another_comparison(compared: Path, tmp_path: Path) -> None:
    done = compare(make_lines(tmp_path / "others", lines=2, count=3), compared)
    assert done.returncode == 12
    assert "holds a comparison of other images" in done.stderr


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_report_opens_without_a_network_and_without_a_complaint(compared: Path, lang: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    asked, said = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=BROWSER)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((compared / f"report.{lang}.html").as_uri())
        assert page.locator("html").get_attribute("lang") == lang
        assert page.locator("section.answer h2").inner_text().strip()
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "fits a phone"
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_a_report(tmp_path: Path) -> None:
    data, out = make_lines(tmp_path / "lines", lines=2, count=20), tmp_path / "out"
    command = [*COMMAND, "--data", str(data), "--out", str(out), "--budget", "10m"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "planned" in line)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=LONG)
    assert process.returncode == 130, (line, error)
    assert "Traceback" not in error
    assert "the same command goes on from here" in error
    assert content(out)["interrupted"]
    assert "report.en.html" in output


def test_folders_that_cannot_be_compared_get_a_result(tmp_path: Path) -> None:
    single = make_lines(tmp_path / "one line", lines=1)
    same = tmp_path / "one class"
    few = tmp_path / "few"
    broken = tmp_path / "broken"
    for number in range(2):
        make_line(same / f"line-{number}", 100, 20, classes=("good",), seed=number)
        make_line(few / f"line-{number}", 100, 3, seed=number)
        for name in ("good", "bad"):
            (broken / f"line-{number}" / name).mkdir(parents=True)
            (broken / f"line-{number}" / name / "x.jpg").write_bytes(b"\xff\xd8 not really")
    folders = {"one_line": single, "one_class": same, "too_few": few, "nothing_readable": broken}
    for obstacle, data in folders.items():
        done = compare(data, tmp_path / f"out {obstacle}", budget="9s")
        assert done.returncode == 0, done.stderr
        assert content(tmp_path / f"out {obstacle}")["obstacle"] == obstacle
        assert "Traceback" not in done.stderr
        assert (tmp_path / f"out {obstacle}" / "report.ja.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--data", "nowhere"], 21, "There is no folder"),
        (["--data", "empty"], 20, "holds no domain"),
        (["--data", "lines", "--budget", "soon"], 10, "is no time"),
        (["--data", "lines", "--methods", "magic"], 10, "There is no method `magic`"),
        (["--data", "lines", "--config", "wrong.yaml"], 10, "did you mean `training`"),
    ],
)
def test_wrong_input_is_told_in_words_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    make_lines(tmp_path / "lines", lines=2, count=2)
    (tmp_path / "wrong.yaml").write_text("traning: {epochs: 2}\n")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=LONG, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "comparison").exists()
