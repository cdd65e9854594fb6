"""The Helm chart, rendered by helm and held against Kubernetes' own schemas."""

import json
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cos.server.flags import load_settings
from cos.server.routes.health import router
from tests.deploy.declared import declared

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "cos-serve"
OF_AN_OPERATOR = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself does not know."""
SET_BY_THE_OPERATOR = {"job", "instance", "namespace", "service", "pod", "container", "endpoint"}
"""Labels of whatever a ServiceMonitor has scraped. A label of the same name in a sample becomes ``exported_...``."""

GPU = ["gpu.enabled=true", "gpu.count=2", "gpu.runtimeClassName=nvidia", "settings.tensor_parallel_size=2"]
SCALED = ["autoscaling.enabled=true", "persistence.models.accessMode=ReadWriteMany"]
WATCHED = ["serviceMonitor.enabled=true", "prometheusRule.enabled=true", "dashboards.enabled=true"]
KEYED = ["apiKey.existingSecret=keys", "hubToken.existingSecret=hub", "allowedHosts={cos.example}"]
STORING = ["persistence.traces.enabled=true", "persistence.traces.accessMode=ReadWriteMany"]
EVERYTHING = [*GPU, *SCALED, *WATCHED, *KEYED, *STORING]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("helm", path=str(ROOT / "build" / "tools")) or shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed (tests/deploy/get_helm.sh)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def render(*values: str) -> "subprocess.CompletedProcess[str]":
    settings = [word for value in values for word in ("--set", value)]
    return helm("template", "demo", str(CHART), "--namespace", "vision", *settings)


@cache
def objects(*values: str) -> dict[str, dict[str, Any]]:
    """What is rendered, by kind and name."""
    done = render(*values)
    assert done.returncode == 0, done.stderr
    found = [item for item in yaml.safe_load_all(done.stdout) if item is not None]
    return {f"{item['kind']} {item['metadata']['name']}": item for item in found}


def pod(*values: str) -> dict[str, Any]:
    return objects(*values)["Deployment demo-cos-serve"]["spec"]["template"]["spec"]


def container(*values: str) -> dict[str, Any]:
    (found,) = pod(*values)["containers"]
    return found


def as_text(found: object) -> str:
    """Equal for equal content, in whatever order its keys are."""
    return json.dumps(found, sort_keys=True)


def variables(*values: str) -> dict[str, Any]:
    """The container's variables: their values, or where they come from."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(*values)["env"]}


def test_helm_finds_no_fault_with_the_chart() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_chart_is_for_this_version_of_the_server() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["appVersion"] == project["version"]


@pytest.mark.parametrize("version", ["1.27", "1.37"])
@pytest.mark.parametrize("values", [[], GPU, SCALED, EVERYTHING])
def test_everything_it_renders_is_what_kubernetes_takes(values: list[str], version: str) -> None:
    rendered = objects(*values)
    assert {"ConfigMap demo-cos-serve", "Service demo-cos-serve", "Deployment demo-cos-serve"} <= set(rendered)
    for item in rendered.values():
        if item["kind"] not in OF_AN_OPERATOR:
            kubernetes_validate.validate(item, version, strict=True)


def test_the_chart_alone_asks_for_one_server_with_a_volume_for_models() -> None:
    assert set(objects()) == {
        "ConfigMap demo-cos-serve",
        "Deployment demo-cos-serve",
        "PersistentVolumeClaim demo-cos-serve-models",
        "Service demo-cos-serve",
    }


def test_the_server_is_ready_by_ready_and_lives_by_health() -> None:
    found = container()
    paths = {name: found[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    routes = {route.path for route in router.routes if hasattr(route, "path")}  # pyright: ignore[reportAttributeAccessIssue]
    assert set(paths.values()) <= routes


@pytest.mark.parametrize("values", [[], ["drain.shutdownTimeoutSeconds=120", "drain.preStopSeconds=10"]])
def test_kubernetes_waits_until_the_server_has_drained(values: list[str]) -> None:
    found = container(*values)
    _, before = found["lifecycle"]["preStop"]["exec"]["command"]
    draining = int(variables(*values)["COS_SHUTDOWN_TIMEOUT_S"])
    assert pod(*values)["terminationGracePeriodSeconds"] == int(before) + draining + 15


@pytest.mark.parametrize(("values", "longest"), [([], 900), (["probes.startup.failureThreshold=360"], 3600)])
def test_a_start_that_its_probe_still_allows_is_no_failed_rollout(values: list[str], longest: int) -> None:
    probe = container(*values)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == longest
    assert objects(*values)["Deployment demo-cos-serve"]["spec"]["progressDeadlineSeconds"] == longest + 60


def test_settings_reach_the_server_as_its_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = objects("settings.policy=a/b", "settings.prm=none", "settings.max_concurrent_searches=7", *KEYED)
    file = tmp_path / "config.yaml"
    file.write_text(rendered["ConfigMap demo-cos-serve"]["data"]["config.yaml"], encoding="utf-8")
    for name, value in variables(*KEYED).items():
        monkeypatch.setenv(name, value if isinstance(value, str) else "of a Secret")
    monkeypatch.setenv("COS_CONFIG", str(file))
    found = load_settings([])
    assert (found.policy, found.prm_name, found.max_concurrent_searches) == ("a/b", None, 7)
    inside = ("demo-cos-serve.vision", "demo-cos-serve.vision.svc", "demo-cos-serve.vision.svc.cluster.local")
    assert found.allowed_hosts == (*inside, "cos.example")


def test_a_key_comes_from_a_secret_and_from_nowhere_else() -> None:
    assert "COS_API_KEY" not in variables()
    assert variables(*KEYED)["COS_API_KEY"] == {"secretKeyRef": {"name": "keys", "key": "api-key"}}
    assert "Secret" not in {item["kind"] for item in objects(*EVERYTHING).values()}


def test_the_container_is_shut_in_and_runs_as_the_user_of_the_image() -> None:
    (number,) = set(re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert pod()["securityContext"]["runAsUser"] == int(number)
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_no_service_of_the_cluster_can_set_a_setting() -> None:
    assert pod()["enableServiceLinks"] is False


def test_a_server_on_gpus_asks_for_them_beside_its_memory() -> None:
    assert container(*GPU)["resources"]["limits"] == {"memory": "12Gi", "nvidia.com/gpu": 2}
    assert "nvidia.com/gpu" not in container()["resources"]["limits"]


def test_more_servers_come_while_searches_wait() -> None:
    scaler = objects(*SCALED)["HorizontalPodAutoscaler demo-cos-serve"]["spec"]
    (metric,) = scaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert any(f'"{name}"' in module.read_text(encoding="utf-8") for module in (ROOT / "server").glob("*.py"))
    assert scaler["scaleTargetRef"]["name"] == "demo-cos-serve"
    assert "replicas" not in objects(*SCALED)["Deployment demo-cos-serve"]["spec"]


def test_finished_searches_are_stored_only_where_that_is_asked_for() -> None:
    assert "COS_TRACE_DIR" not in variables()
    assert variables(*STORING)["COS_TRACE_DIR"] == "/traces"


def test_prometheus_is_told_the_job_that_alerts_go_by() -> None:
    (endpoint,) = objects(*WATCHED)["ServiceMonitor demo-cos-serve"]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert {"targetLabel": "job", "replacement": "cos-serve"} in endpoint["relabelings"]


def test_no_label_of_the_server_has_to_give_way_to_one_of_the_operator() -> None:
    (endpoint,) = objects(*WATCHED)["ServiceMonitor demo-cos-serve"]["spec"]["endpoints"]
    dropped = {rule["regex"] for rule in endpoint["relabelings"] if rule.get("action") == "labeldrop"}
    own = {label for labels in declared().values() for label in labels}
    assert not own & (SET_BY_THE_OPERATOR - dropped)


def test_dashboards_and_rules_are_those_of_the_repository_to_the_letter() -> None:
    rendered = objects(*WATCHED)
    boards = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (CHART / "dashboards").glob("*.json")}
    told = rendered["ConfigMap demo-cos-serve-dashboards"]["data"]
    assert boards
    assert {name: json.loads(text) for name, text in told.items()} == boards
    rules = [yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for path in (CHART / "rules").glob("*.yml")]
    assert rules
    found = [item["spec"]["groups"] for item in rendered.values() if item["kind"] == "PrometheusRule"]
    assert sorted(map(as_text, found)) == sorted(map(as_text, rules))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["replicacount=2"], "replicacount"),
        (["settings.port=9000"], "port"),
        (["settings.api_key=x"], "api_key"),
        (["settings.policy=null"], "policy"),
        (["drain.preStopSeconds=-1"], "preStopSeconds"),
        (["persistence.models.accessMode=Often"], "accessMode"),
        (["gpu.count=0", "gpu.enabled=true"], "count"),
        (["replicaCount=2"], "persistence.models.accessMode ReadWriteOnce"),
        (["autoscaling.enabled=true"], "set it to ReadWriteMany"),
        ([*SCALED, "autoscaling.minReplicas=9"], "autoscaling.maxReplicas 4 is below autoscaling.minReplicas 9"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: list[str], told: str) -> None:
    done = render(*values)
    assert done.returncode != 0
    assert told in done.stderr


def test_the_notes_say_how_to_reach_the_server_and_that_it_is_open() -> None:
    # A rehearsal of an installation, without a cluster.
    command = ["install", "demo", str(CHART), "--dry-run=client", "--namespace", "vision"]
    notes = helm(*command).stdout.partition("NOTES:")[2]
    assert "port-forward service/demo-cos-serve 8000:8000" in notes
    assert "No API key is set" in notes
    assert "--timeout 960s" in notes
    assert "No API key is set" not in helm(*command, "--set", "apiKey.existingSecret=keys").stdout
