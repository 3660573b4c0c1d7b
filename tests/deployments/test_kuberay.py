"""The Kubernetes manifest and the image are what KubeRay, Kubernetes, Ray and Headrace accept. No cluster is asked.

With HEADRACE_KUBERAY_CRD, the path of KubeRay's own definition of a RayService, it is judged by that as well.
"""

import copy
import itertools
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.config import config_from_dict
from tests.deployments.kuberay_schema import RAY_SERVICE

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "deployments" / "clusters"
CRD = "HEADRACE_KUBERAY_CRD"
KUBERNETES = kubernetes_validate.latest_version()
GROUPS = ("head", "serving", "learning")
FRONT_PORT = 8000


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for one in manifest() if one["kind"] == kind]
    return found


def group(name: str) -> dict[str, Any]:
    cluster = of_kind("RayService")["spec"]["rayClusterConfig"]
    named = {"head": cluster["headGroupSpec"], **{one["groupName"]: one for one in cluster["workerGroupSpecs"]}}
    assert set(named) == set(GROUPS)
    return named[name]


def pod(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **group(name)["template"]}


def container(name: str) -> dict[str, Any]:
    (found,) = pod(name)["spec"]["containers"]
    return found


def labels_of(name: str) -> dict[str, str]:
    return pod(name)["metadata"]["labels"]


def selected(selector: dict[str, str]) -> set[str]:
    """Groups whose pods have these labels."""
    return {name for name in GROUPS if selector.items() <= labels_of(name).items()}


@pytest.mark.parametrize(
    "one", [one for one in manifest() if "ray.io" not in one["apiVersion"]], ids=lambda o: o["kind"]
)
def test_kubernetes_accepts_what_is_its_own(one: dict[str, Any]):
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", GROUPS)
def test_kubernetes_accepts_the_pods(name: str):
    kubernetes_validate.validate(pod(name), KUBERNETES, strict=True)


def test_kuberay_accepts_the_service():
    jsonschema.validate(of_kind("RayService"), RAY_SERVICE)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of Kubernetes that takes no unknown field: Kubernetes would drop it without a word."""
    inner = dict(schema)
    if "properties" in schema:
        inner["properties"] = {name: closed(field) for name, field in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            inner.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(inner.get(name), dict):
            inner[name] = closed(inner[name])
    return inner


@pytest.mark.skipif(CRD not in os.environ, reason=f"{CRD} does not name KubeRay's definition of a RayService")
def test_kuberays_own_definition_accepts_the_service():
    definition = yaml.safe_load(Path(os.environ[CRD]).read_text())
    (v1,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    service = of_kind("RayService")
    schema = v1["schema"]["openAPIV3Schema"]
    schema["properties"].pop("metadata", None)
    service.pop("metadata")
    jsonschema.validate(service, closed(schema))


def test_an_unknown_field_is_unknown_to_a_closed_schema():
    """As Kubernetes writes them: fields by name, and objects of any names."""
    schema = {
        "type": "object",
        "properties": {
            "properties": {"type": "object", "properties": {"size": {"type": "integer"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    jsonschema.validate({"properties": {"size": 1}, "labels": {"any": "one"}}, closed(schema))
    with pytest.raises(jsonschema.ValidationError, match="'weight' was unexpected"):
        jsonschema.validate({"properties": {"weight": 1}}, closed(schema))


def broken(path: str, value: Any) -> dict[str, Any]:
    """The service with another value at a path."""
    service = copy.deepcopy(of_kind("RayService"))
    *to, last = path.split(".")
    at: Any = service["spec"]
    for name in to:
        at = at[int(name)] if isinstance(at, list) else at[name]
    at[last] = value
    return service


WORKERS = "rayClusterConfig.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("upgradeStrategy.type", None, "is not one of"),
        ("serveConfig", "", "'serveConfig' was unexpected"),
        ("rayClusterConfig.rayVersion", 2.6, "is not of type 'string'"),
        ("rayClusterConfig.authOptions.mode", "tokens", "is not one of"),
        (f"{WORKERS}.replicas", "2", "is not of type 'integer'"),
        (f"{WORKERS}.rayStartParams.num-cpus", 0, "is not of type 'string'"),
        (f"{WORKERS}.groupname", "serving", "'groupname' was unexpected"),
    ],
)
def test_a_mistake_in_the_service_is_noticed(path: str, value: Any, message: str):
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(broken(path, value), RAY_SERVICE)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["spec"].update(terminationGracePeriod=60),
        lambda one: one["spec"]["containers"][0]["readinessProbe"]["httpGet"].update(port=True),
        lambda one: one["spec"]["containers"][0]["lifecycle"].update(prestop={}),
        lambda one: one["spec"].pop("containers"),
    ],
)
def test_a_mistake_in_a_pod_is_noticed(spoil: Callable[[dict[str, Any]], Any]):
    one = pod("serving")
    spoil(one)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_serve_accepts_what_kuberay_tells_it():
    """No applications: those of `headrace deploy` were not deployed in this way, and Serve keeps them."""
    told = ServeDeploySchema.model_validate(yaml.safe_load(of_kind("RayService")["spec"]["serveConfigV2"]))
    assert (told.applications, told.http_options.host, told.http_options.port) == ([], "0.0.0.0", FRONT_PORT)
    assert told.proxy_location.value == "EveryNode"


def test_kuberay_runs_the_ray_that_is_installed():
    pinned = [line for line in project()["dependencies"] if line.startswith("ray[")]
    told = of_kind("RayService")["spec"]["rayClusterConfig"]["rayVersion"]
    assert [line.partition("==")[2] for line in pinned] == [told]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_headrace_accepts_its_configuration():
    written = tomllib.loads(of_kind("ConfigMap")["data"]["headrace.toml"])
    config = config_from_dict(written)
    (cpu,) = {container("serving")["resources"][kind]["cpu"] for kind in ("requests", "limits")}
    assert config.n_rankers == int(cpu) - 1


@pytest.mark.parametrize("name", GROUPS)
def test_roles_belong_to_groups(name: str):
    """As a shell reads what KubeRay makes of it."""
    told = group(name)["rayStartParams"].get("resources", "'{}'")
    (word,) = shlex.split(told)
    assert set(json.loads(word)) == {"head": set(), "serving": {"serving"}, "learning": {"learning"}}[name]


@pytest.mark.parametrize("name", GROUPS)
def test_a_pod_is_made_a_node_before_ray_starts(name: str, tmp_path: Path):
    """Run with programs that write down how they were called, under the name that KubeRay gives its command."""
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "headrace" / "node").mkdir(parents=True)
    (tmp_path / "headrace" / "node" / "environment.sh").write_text("export FROM_NODE=yes\n")
    for program in ("headrace", "ray"):
        (programs / program).write_text(f'#!/bin/sh\necho "{program} $* $FROM_NODE" >> {calls}\n')
        (programs / program).chmod(0o700)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:/usr/bin:/bin",
        "KUBERAY_GEN_RAY_START_CMD": 'ray start --resources="{\\"serving\\": 1000}" --block',
    }
    subprocess.run([*container(name)["command"], *container(name)["args"]], env=environment, check=True)
    assert calls.read_text().splitlines() == ["headrace node ", 'ray start --resources={"serving": 1000} --block yes']


@pytest.mark.parametrize("name", GROUPS)
def test_no_pod_has_rights_that_it_does_not_need(name: str):
    spec = pod(name)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    security = container(name)["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["capabilities"]) == (False, {"drop": ["ALL"]})


@pytest.mark.parametrize("name", GROUPS)
def test_a_pod_ends_within_its_time(name: str):
    """It waits until the service has forgotten it, then stops Ray, for which a stop takes some seconds."""
    (seconds,) = re.findall(r"sleep (\d+); ray stop", container(name)["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert int(seconds) + 30 <= pod(name)["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", GROUPS)
def test_the_object_store_fits_its_memory(name: str):
    (shared,) = [one for one in pod(name)["spec"]["volumes"] if one["name"] == "shared-memory"]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert int(group(name)["rayStartParams"]["object-store-memory"]) < 2**30
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container(name)["volumeMounts"]


def test_callers_are_led_to_pods_that_serve_and_are_ready():
    service = of_kind("Service")
    assert selected(service["spec"]["selector"]) == {"serving"}
    (port,) = service["spec"]["ports"]
    assert port["port"] == port["targetPort"] == FRONT_PORT
    assert container("serving")["readinessProbe"]["httpGet"] == {"path": "/v1/health", "port": FRONT_PORT}
    assert selected(of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]) == {"serving"}


def test_only_callers_reach_front_doors_and_only_the_operator_the_head():
    policy = of_kind("NetworkPolicy")["spec"]
    assert selected(policy["podSelector"]["matchLabels"]) == set(GROUPS)
    origins = [
        (rule["from"][0]["podSelector"]["matchLabels"], [port["port"] for port in rule.get("ports", [])])
        for rule in policy["ingress"]
    ]
    assert origins == [
        ({"app.kubernetes.io/name": "headrace"}, []),
        ({"headrace/caller": "true"}, [FRONT_PORT]),
        ({"app.kubernetes.io/name": "kuberay-operator"}, [8265]),
    ]
    assert "namespaceSelector" not in policy["ingress"][0]["from"][0]  # the pods, and not those of other namespaces


def test_secrets_are_those_that_the_head_of_the_file_makes():
    text = (CLUSTERS / "kuberay.yaml").read_text()
    made = set(re.findall(r"--from-literal=([\w-]+)=", text))
    asked = set(re.findall(r"secretKeyRef: \{name: headrace, key: ([\w-]+)\}", text))
    assert made == asked
    assert "create secret generic headrace " in text


def instructions() -> list[list[str]]:
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def test_the_image_has_every_package_and_nothing_else_of_the_repository():
    copied = [word for name, *words in instructions() if name == "COPY" for word in words[:-1]]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    wanted = [*(name for name in packages if "." not in name), "pyproject.toml", "README.md", "deployments/locks"]
    assert sorted(copied) == sorted(wanted)
    assert all((ROOT / word).exists() for word in copied)


def test_packages_of_the_image_are_installed_from_the_locks_before_the_source_is_copied():
    before = list(itertools.takewhile(lambda words: "features" not in words[1:2], instructions()))
    (made,) = (words for name, *words in before if name == "RUN" and words[0] == "mkdir")
    assert made[-2:] == ["python", "deployments/locks/install.py"]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name.replace(".", "/") for name in packages} - {"features", "deployments"}
    assert folders <= {*made, "deployments/locks"}, "installed before they are copied"
    assert ["COPY", "deployments/locks", "deployments/locks"] in before


def test_the_image_runs_as_the_user_of_the_pods_where_nodes_are_made():
    """`headrace node` writes to ~/headrace/node."""
    said = {name: words for name, *words in instructions()}
    assert said["USER"] == [str(pod("serving")["spec"]["securityContext"]["runAsUser"])]
    assert said["WORKDIR"] == ["/home/headrace/headrace"]


def test_the_image_has_a_python_that_is_new_enough():
    (_, image), *_ = instructions()
    number = re.fullmatch(r"python:3\.(\d+)-slim", image)
    assert number
    least = re.fullmatch(r">=3\.(\d+)", project()["requires-python"])
    assert least
    assert int(number[1]) >= int(least[1])
