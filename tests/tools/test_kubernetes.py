"""The manifests of deploy/kubernetes as they stand: Kubernetes' own schemas and KEDA's (kubernetes.json, made by
deploy/test/schemas.py), and what no schema knows. No cluster has run them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from cluster import container
from counter_project.config import Config
from sharding import connection_budget
from sharding.connection_budget import Fleet
from tests.support.commands import ROOT

HOME = ROOT / "deploy" / "kubernetes"
SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes.json").read_text(encoding="utf-8"))
COMPONENT = "app.kubernetes.io/component"
VALKEY = ("cache", "broker", "journal", "sentinel")


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(HOME.glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield from one["items"] if one["kind"] == "List" else [one]


ALL = list(manifests())
WORKLOADS = [one for one in ALL if one["kind"] in {"StatefulSet", "Deployment", "DaemonSet", "Job"}]


def named(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def of_kind(kind: str) -> dict[str, Any]:
    return {one["metadata"]["name"]: one for one in ALL if one["kind"] == kind}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for workload in WORKLOADS:
        for one in (*pod(workload).get("initContainers", ()), *pod(workload)["containers"]):
            yield workload, one


def labels(workload: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def selected(selector: dict[str, Any]) -> list[dict[str, Any]]:
    """The workloads whose pods a selector's labels choose."""
    wanted = selector.get("matchLabels", selector)
    return [one for one in WORKLOADS if wanted.items() <= labels(one).items()]


@cache
def validator(kind: str) -> Any:
    return jsonschema_rs.validator_for({**SCHEMAS["kinds"][kind], "$defs": SCHEMAS["$defs"]})


@pytest.mark.parametrize("one", ALL, ids=named)
def test_the_schema_takes_it(one: dict[str, Any]) -> None:
    errors = list(validator(f"{one['apiVersion']} {one['kind']}").iter_errors(one))
    assert [f"{error.instance_path}: {error.message}" for error in errors] == []


def test_the_schema_is_strict() -> None:
    worker = json.loads(json.dumps(of_kind("ScaledObject")["worker"]))
    worker["spec"]["minReplicas"] = 2
    assert not validator("keda.sh/v1alpha1 ScaledObject").is_valid(worker)


def test_names_are_unique_and_in_the_namespace() -> None:
    names = [named(one) for one in ALL]
    assert len(set(names)) == len(names)
    assert {one["metadata"]["namespace"] for one in ALL if one["kind"] != "Namespace"} == {"tally"}


def test_every_container_is_bounded_and_confined() -> None:
    for workload, one in containers():
        where = f"{named(workload)} {one['name']}"
        given = one["securityContext"]
        assert given["readOnlyRootFilesystem"], where
        assert not given["allowPrivilegeEscalation"], where
        assert given["capabilities"] == {"drop": ["ALL"]}, where
        assert pod(workload)["securityContext"]["runAsNonRoot"], where
        assert pod(workload)["automountServiceAccountToken"] is False, where
        assert "memory" in one["resources"]["limits"], where
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys(), where
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        claimed = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        assert mounted <= claimed | {volume["name"] for volume in pod(workload)["volumes"]}, where


def test_every_container_has_a_role_of_its_image() -> None:
    images = {"postgres": "tally-postgres", "nginx": "tally-nginx"} | dict.fromkeys(VALKEY, "tally-valkey")
    for workload, one in containers():
        if labels(workload)[COMPONENT] != "etcd":
            role = one["args"][0]
            assert role in container.ROLES
            assert one["image"] == f"{images.get(role, 'tally')}:latest"


def test_selectors_choose_their_own_pods() -> None:
    for workload in WORKLOADS:
        if workload["kind"] != "Job":
            assert selected(workload["spec"]["selector"]) == [workload]
    for kind in ("Service", "PodDisruptionBudget"):
        for name, one in of_kind(kind).items():
            chosen = selected(one["spec"]["selector"])
            assert len(chosen) == 1, name
            ports = {
                port.get("name"): port["containerPort"]
                for each in pod(chosen[0])["containers"]
                for port in each.get("ports", ())
            }
            for port in one["spec"].get("ports", ()):
                target = port.get("targetPort", port["port"])
                assert target in {*ports, *ports.values()}, name


def test_network_policies_name_ports_of_pods() -> None:
    for name, one in of_kind("NetworkPolicy").items():
        selector = one["spec"]["podSelector"]
        if "matchExpressions" in selector:
            (choice,) = selector["matchExpressions"]
            chosen = [workload for value in choice["values"] for workload in selected({choice["key"]: value})]
        else:
            chosen = selected(selector)
        assert chosen
        ports = {
            port["name"] for each in chosen for one_of in pod(each)["containers"] for port in one_of.get("ports", ())
        }
        for rule in one["spec"].get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} <= ports, name
            assert "from" in rule or name == "nginx", "only nginx is for everybody"


def test_only_nginx_is_published() -> None:
    kinds = {name: one["spec"].get("type", "ClusterIP") for name, one in of_kind("Service").items()}
    assert [name for name, kind in kinds.items() if kind != "ClusterIP"] == ["tally"]
    assert all(not port.get("hostPort") for _, one in containers() for port in one.get("ports", ()))


def test_there_is_one_beat() -> None:
    assert of_kind("StatefulSet")["beat"]["spec"]["replicas"] == 1
    assert [named(one) for one, each in containers() if each.get("args", [""])[0] == "beat"] == ["StatefulSet beat"]


def test_secrets_are_those_that_the_script_makes(tmp_path: Path) -> None:
    subprocess.run([ROOT / "deploy" / "make-secrets", tmp_path], check=True)
    made = {path.name for path in tmp_path.iterdir()}
    used = {
        item["key"]
        for one in WORKLOADS
        for volume in pod(one)["volumes"]
        for item in volume.get("secret", {}).get("items", ())
    }
    files = {
        value.rpartition("/")[2]
        for name, value in of_kind("ConfigMap")["tally"]["data"].items()
        if name.endswith("_FILE")
    }
    assert used | files <= made
    assert all("secret" not in one.get("kind", "").lower() for one in ALL), "no secret stands in a manifest"


def test_the_settings_are_settings() -> None:
    known = {f"TALLY_{field.upper()}" for field in Config.model_fields}
    data = of_kind("ConfigMap")["tally"]["data"]
    given = {
        entry["name"] for _, one in containers() for entry in one.get("env", ()) if entry["name"].startswith("TALLY_")
    }
    assert {name.removesuffix("_FILE") for name in {*data} | given} <= known | {"TLS"}


def test_the_shards_are_the_pods() -> None:
    named_hosts = {
        node["host"]
        for shard in json.loads(of_kind("ConfigMap")["tally"]["data"]["TALLY_SHARDS"])
        for node in shard["nodes"]
    }
    pods = set()
    for name, one in of_kind("StatefulSet").items():
        if labels(one)[COMPONENT] == "database":
            start, spec = one["spec"]["ordinals"]["start"], one["spec"]
            assert of_kind("Service")[spec["serviceName"]]["spec"]["clusterIP"] == "None"
            assert labels(one)["tally/shard"] == name.removeprefix("db-")
            pods |= {
                f"{name}-{start + n}.{spec['serviceName']}.tally.svc.cluster.local" for n in range(spec["replicas"])
            }
    assert named_hosts == pods


def test_workers_follow_the_age_of_the_journal_and_processor_time_never_the_queue() -> None:
    scaled = of_kind("ScaledObject")
    for name, one in scaled.items():
        assert "replicas" not in of_kind("Deployment")[name]["spec"], (
            "applying the manifests again would undo the scaling"
        )
        for trigger in one["spec"]["triggers"]:
            assert trigger["type"] == "cpu" or trigger["metadata"]["query"] == "max(tally_journal_age_seconds)"
        behavior = one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    shards = len(json.loads(of_kind("ConfigMap")["tally"]["data"]["TALLY_SHARDS"]))
    assert scaled["worker"]["spec"]["maxReplicaCount"] == shards * Config.model_fields["lanes"].default


def test_the_connections_of_all_that_may_run_fit() -> None:
    data = of_kind("ConfigMap")["tally"]["data"]
    (most,) = {
        entry["value"] for _, one in containers() for entry in one.get("env", ()) if entry["name"] == "MAX_CONNECTIONS"
    }
    scaled = {name: one["spec"]["maxReplicaCount"] for name, one in of_kind("ScaledObject").items()}
    connection_budget.check(
        Fleet(
            api=scaled["app"],
            workers=[scaled["worker"]] * len(json.loads(data["TALLY_SHARDS"])),
            spill_workers=1,
            pool_size=int(data["TALLY_DATABASE_POOL_SIZE"]),
            worker_concurrency=int(data["TALLY_WORKER_CONCURRENCY"]),
            max_connections=int(most),
        )
    )
