"""docs/configuration.md is what the code says, and its examples can be used as they stand."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedwon.client.config import ClientConfig
from fedwon.common.config import flatten, parse
from fedwon.common.methods import METHODS
from fedwon.common.run_config import RunConfig
from fedwon.server.config import ServerConfig
from fedwon.server.engines.simulating import SimulationConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^`([a-z]+\.yaml)`:\n\n```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def test_the_page_is_what_the_code_says():
    written = runpy.run_path(str(DOCS / "generate.py"))["reference"]()
    assert written == PAGE, "run: make docs"


def test_the_script_prints_the_page():
    ran = subprocess.run([sys.executable, DOCS / "generate.py"], capture_output=True, check=True)
    assert ran.stdout.decode("utf-8") == PAGE


def test_every_key_is_there():
    keys = set(re.findall(r"^\| `([a-z_.]+)` \|", PAGE, re.MULTILINE))
    server = set(flatten(ServerConfig())) | {"run.classes", "run.images.max_train", "run.training.clipping"}
    assert server <= keys
    assert {"server", "data.path", "data.test", "batch_size", "threads"} <= keys
    assert set(METHODS) <= keys
    assert set(SimulationConfig.model_fields) - set(RunConfig.model_fields) - {"sites"} <= keys
    assert "| `sites.NAME.batch_size` |" in PAGE


def test_every_key_has_a_meaning():
    rows = re.findall(r"^\| `[a-z_.]+` \|(.*)\|$", PAGE, re.MULTILINE)
    assert all(row.strip() for row in rows)
    for row in re.findall(r"^\| `[a-z_]+(?:\.[a-z_]+)+` \|.*$", PAGE, re.MULTILINE):
        assert len(row.replace("\\|", "").split("|")) == 6, row
        assert row.rsplit("|", 2)[1].strip(), row


@pytest.mark.parametrize(("name", "kind"), [("server.yaml", ServerConfig), ("client.yaml", ClientConfig)])
def test_the_examples_can_be_read(name, kind):
    example = parse(kind, yaml.safe_load(EXAMPLES[name]), name)
    if kind is ServerConfig:
        assert example.run == RunConfig()


@pytest.mark.parametrize("anchor", sorted(set(re.findall(r"\]\(#([a-z_]+)\)", PAGE))))
def test_links_within_the_page(anchor):
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}
