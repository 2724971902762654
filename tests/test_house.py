"""The rules of the house: who may import whom, what no code may call, what every public name has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedwon.common.config import load
from fedwon.server.engines.simulating import SimulationConfig

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "models": set(),
    "common": {"models"},
    "client": {"common", "models"},
    "server": {"common", "models"},
}
AS_SITES = ("server/engines/", "server/comparison/", "server/relays/", "server/demo.py", "server/releases/parity.py")
"""Where the server does what sites do: it simulates them, is one itself, or reads their images as they would."""
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load", "os.system"}
FORBIDDEN_IMPORTS = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
LONGEST_FUNCTION = 60


def sources() -> list[Path]:
    found = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if "_pb2" not in path.name]


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sources():
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative import"
            yield node.module


def test_packages_import_down_and_to_the_left_only() -> None:
    crossings = []
    for name, tree in trees():
        package = name.split("/")[0]
        as_sites = name.startswith(AS_SITES)
        allowed = MAY_IMPORT[package] | {package} | ({"client"} if as_sites else set())
        ours = {module.split(".")[1] for module in imported(tree) if module.startswith("fedwon.")}
        crossings += [f"{name} imports fedwon.{other}" for other in ours - allowed]
    assert crossings == []


def test_models_need_torch_and_nothing_else_of_ours_or_flowers() -> None:
    for name, tree in trees():
        if name.startswith("models/"):
            assert not {module.split(".")[0] for module in imported(tree)} & {"flwr", "grpc", "pydantic"}, name


def test_flowers_insides_are_touched_in_one_file() -> None:
    public = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp", "flwr.simulation"}
    for name, tree in trees():
        inside = {module for module in imported(tree) if module.split(".")[0] == "flwr"} - public
        assert not inside or name == "common/flower.py", f"{name} imports {inside}"


def test_no_code_runs_from_data() -> None:
    found = []
    for name, tree in trees():
        found += [f"{name} imports {module}" for module in imported(tree) if module.split(".")[0] in FORBIDDEN_IMPORTS]
        calls = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += [f"{name} calls {call}" for call in calls if call in FORBIDDEN_CALLS]
        found += [f"{name} allows pickle" for node in ast.walk(tree) if _allows_pickle(node)]
    assert found == []


def _allows_pickle(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    )


def test_functions_are_short_and_public_names_documented() -> None:
    long, bare = [], []
    for name, tree in trees():
        if not ast.get_docstring(tree):
            bare.append(name)
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{name}:{node.lineno} {node.name}")
            length = (node.body[-1].end_lineno or 0) - node.body[0].lineno
            if not isinstance(node, ast.ClassDef) and length >= LONGEST_FUNCTION:
                long.append(f"{name}:{node.lineno} {node.name}")
    assert long == []
    assert bare == []


def test_every_module_is_packaged() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT).as_posix() for path in sources()}
    missing = [folder for folder in folders if f'"fedwon.{folder.replace("/", ".")}"' not in text]
    assert missing == []


def test_an_idle_client_has_not_loaded_torch() -> None:
    imports = "import sys, fedwon.client.cli, fedwon.client.link.site_link"
    code = f"{imports}; print({{'torch', 'torchvision'}} & {{*sys.modules}} or 'no')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no"


def test_importing_fedwon_silences_flower() -> None:
    names = ["FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"]
    code = f"import os, fedwon.common; print(*(os.environ[name] for name in {names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert load(SimulationConfig, path).rounds >= 1


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = []
    for page in pages:
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        inside = [target for target in targets if "://" not in target]
        broken += [f"{page.relative_to(ROOT)} -> {target}" for target in inside if not (page.parent / target).exists()]
    assert broken == []


def test_make_knows_what_the_readme_promises() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"(?:`|^)make ([a-z]+)\b", readme, re.MULTILINE))
    assert {"demo", "test"} <= promised
    assert not [target for target in promised if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
