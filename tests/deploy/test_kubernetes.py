"""deploy/kubernetes: each object is valid by Kubernetes' own schemas, and what must hold for a server does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fedwon.common.config import load
from fedwon.common.run_config import RunConfig

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
RESOURCES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
VERSIONS = ("1.31.0", "1.34.0")


def objects(text: str) -> list[dict]:
    return [content for content in yaml.safe_load_all(text) if content]


def read(name: str) -> dict:
    [content] = objects((FOLDER / name).read_text())
    return content


def validate(content: dict, version: str) -> None:
    """Check one object, strictly: an unknown key is an error."""
    kit = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: pip install '.[dev]'"
    )
    kit.validate(content, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RESOURCES)
def test_each_object_is_valid(name, version):
    validate(read(name), version)


def test_a_wrong_key_would_be_found():
    content = read("statefulset.yaml")
    content["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(Exception, match="readOnlyRootFilesystem"):
        validate(content, VERSIONS[0])


def test_every_file_is_in_the_base():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"], "kustomization.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == used


def test_the_run_is_a_configuration():
    assert load(RunConfig, FOLDER / "run.yaml").rounds == 100


def test_what_kustomize_makes_of_it_is_valid():
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl command")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = objects(done.stdout)
    assert {content["kind"] for content in made} == {
        "Namespace",
        "ConfigMap",
        "StatefulSet",
        "Service",
        "NetworkPolicy",
    }
    for content in made:
        validate(content, VERSIONS[0])
    [config] = [content["metadata"]["name"] for content in made if content["kind"] == "ConfigMap"]
    [server] = [content for content in made if content["kind"] == "StatefulSet"]
    assert str(server).count(config) == 3  # name, federation, run.yaml


def pod() -> dict:
    return read("statefulset.yaml")["spec"]["template"]["spec"]


def test_the_pod_keeps_to_the_restricted_standard():
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["initContainers"] + spec["containers"]:
        guarded = container["securityContext"]
        assert guarded["allowPrivilegeEscalation"] is False
        assert guarded["readOnlyRootFilesystem"] is True
        assert guarded["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])


def test_the_user_is_that_of_the_image():
    dockerfile = (FOLDER.parent / "Dockerfile").read_text()
    user = pod()["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in dockerfile


def test_keys_are_not_opened_to_the_group_at_each_start():
    assert pod()["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_ports_meet():
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    service = read("service.yaml")["spec"]["ports"]
    policy = read("networkpolicy.yaml")["spec"]["ingress"][0]["ports"]
    assert {port["targetPort"] for port in service} == {port["port"] for port in policy} == set(ports)
    assert ports == {"sites": 8470, "enrolment": 8471}
