"""`docker compose up`: server, Prometheus and Grafana, on this machine alone."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from cos.server.settings import Settings

ROOT = Path(__file__).parents[2]
CPU = ROOT / "docker-compose.yml"
GPU = ROOT / "docker-compose.gpu.yml"
REMOTE = ROOT / "docker-compose.remote.yml"
MODELS = {"COS_POLICY": "org/policy", "COS_PRM": "org/prm"}


def services(file: Path = CPU) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["services"]


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


@pytest.mark.parametrize(
    ("file", "expected"),
    [(CPU, ["cos-serve", "prometheus", "grafana"]), (GPU, ["cos-serve"]), (REMOTE, ["cos-serve", "policy", "prm"])],
)
def test_every_key_and_value_is_one_of_the_compose_specification(file: Path, expected: list[str]) -> None:
    assert PyCompose.from_yaml(file.read_text(encoding="utf-8")).service_names() == expected


@pytest.mark.parametrize("files", [[CPU], [CPU, GPU], [CPU, REMOTE]])
def test_compose_renders_it(files: list[Path]) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (apt-get install docker-compose)")
    options = [word for file in files for word in ("--file", str(file))]
    done = subprocess.run(
        [program, *options, "config"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, **MODELS},
    )
    assert done.returncode == 0, done.stderr
    server = yaml.safe_load(done.stdout)["services"]["cos-serve"]
    target = "cuda" if GPU in files else "cpu"
    assert (server["build"]["target"], server["image"]) == (target, f"cos-serve:{target}")
    assert len(server["ports"]) == 1


def test_every_port_is_bound_to_this_machine() -> None:
    ports = [port for service in services().values() for port in service["ports"]]
    assert sorted(ports) == ["127.0.0.1:3000:3000", "127.0.0.1:8000:8000", "127.0.0.1:9090:9090"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_an_image_of_others_is_one_version_and_tells_how_it_is(name: str) -> None:
    service = services()[name]
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"


def test_everything_starts_again_after_a_failure() -> None:
    assert {service["restart"] for service in services().values()} == {"unless-stopped"}


def test_a_stop_leaves_the_server_time_to_drain() -> None:
    server = services()["cos-serve"]
    assert seconds(server["stop_grace_period"]) == server["environment"]["COS_SHUTDOWN_TIMEOUT_S"] + 15


@pytest.mark.parametrize("file", [CPU, GPU, REMOTE])
def test_every_variable_is_a_setting_of_the_server(file: Path) -> None:
    variables = set(services(file)["cos-serve"]["environment"]) - {"HF_TOKEN"}
    assert variables <= {f"COS_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_that_the_pages_tell_an_operator_to_change_can_be_set() -> None:
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("runbook.md", "deployment.md")]
    boards = [file.read_text(encoding="utf-8") for file in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")]
    flags = {name.upper().replace("-", "_") for name in re.findall(r"--([a-z][a-z-]+)", "".join((*pages, *boards)))}
    variables = set(re.findall(r"COS_([A-Z_]+)", "".join(pages)))
    settings = {name.upper() for name in Settings.model_fields} - {"CONFIG", "HOST", "PORT"}
    told = {f"COS_{name}" for name in (flags | variables) & settings}
    assert told <= set(services(CPU)["cos-serve"]["environment"]) | set(services(GPU)["cos-serve"]["environment"])


def test_no_secret_is_written_down() -> None:
    found = {name: value for service in services().values() for name, value in service.get("environment", {}).items()}
    secrets = {name for name in found if re.search(r"KEY$|TOKEN$|PASSWORD$", name)}
    assert secrets == {"COS_API_KEY", "COS_POLICY_API_KEY", "COS_PRM_API_KEY", "HF_TOKEN"}
    assert {found[name] for name in secrets} == {None}


def test_every_folder_that_is_mounted_is_there() -> None:
    mounted = [mount.split(":")[0] for service in services().values() for mount in service["volumes"]]
    folders = [ROOT / mount for mount in mounted if mount.startswith("./")]
    assert len(folders) == 3
    assert [folder for folder in folders if not folder.is_dir()] == []


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {
        target
        for job in scraped["scrape_configs"]
        if job["job_name"] == "cos-serve"
        for config in job["static_configs"]
        for target in config["targets"]
    }
    assert targets == {"cos-serve:8000"}
    sources = ROOT / "deploy" / "grafana" / "provisioning" / "datasources"
    addresses = {
        source["url"]
        for file in sources.glob("*.yml")
        for source in yaml.safe_load(file.read_text(encoding="utf-8"))["datasources"]
    }
    assert addresses == {"http://prometheus:9090"}


def test_grafana_opens_with_the_search_latency_and_asks_for_no_password() -> None:
    environment = services()["grafana"]["environment"]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == "/var/lib/grafana/dashboards/cos-search-latency.json"
    assert (ROOT / "deploy" / "grafana" / "dashboards" / Path(home).name).is_file()
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_the_second_file_adds_the_gpu() -> None:
    server = services(GPU)["cos-serve"]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_third_file_adds_a_vllm_for_each_model_as_the_page_says_to_start_one() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^vllm serve MODEL (.*)$", page, re.MULTILINE)
    every = services(REMOTE)
    for name in ("policy", "prm"):
        _, *options = every[name]["command"]
        assert " ".join(options).replace("=", " ") == line
        assert every["cos-serve"]["environment"][f"COS_{name.upper()}_URL"] == f"http://{name}:8000"
        assert every["cos-serve"]["depends_on"][name] == {"condition": "service_healthy"}
