"""A Prometheus of our own, for as long as something is measured: what it scrapes, and what it is asked."""

import asyncio
import math
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cos.benchmarks.server_process import free_port, stop, until_ready
from cos.search.errors import CosError

JOB = "cos-serve"
"""The job that the alerts go by."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a reply: its labels, and its values by Unix time in seconds."""

    labels: Mapping[str, str]
    values: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    client: httpx.AsyncClient

    async def query(self, expr: str) -> list[Series]:
        """What an expression is now, without values that are not a number. Errors: CosError for one that is none."""
        found = await self._ask("/api/v1/query", {"query": expr})
        if found["resultType"] == "scalar":
            return _series([{"metric": {}, "value": found["result"]}])
        return _series(found["result"])

    async def query_range(self, expr: str, start: float, end: float, step_s: float) -> list[Series]:
        """What an expression was, from ``start`` to ``end`` (Unix time). Errors: as `query`."""
        asked = {"query": expr, "start": str(start), "end": str(end), "step": str(step_s)}
        return _series((await self._ask("/api/v1/query_range", asked))["result"])

    async def alerts(self) -> list[Mapping[str, Any]]:
        """The alerts that are pending or firing."""
        return (await self._ask("/api/v1/alerts", {}))["alerts"]

    async def exemplars(self, selector: str, start: float, end: float) -> list[Mapping[str, Any]]:
        """Exemplars of the series that a selector names."""
        return await self._ask("/api/v1/query_exemplars", {"query": selector, "start": str(start), "end": str(end)})

    async def _ask(self, path: str, asked: Mapping[str, str]) -> Any:
        reply = (await self.client.get(path, params=dict(asked))).json()
        if reply["status"] != "success":
            raise CosError(f"Prometheus cannot evaluate {asked.get('query', path)}: {reply['error']}")
        return reply["data"]


@asynccontextmanager
async def scraping(target: str, config: Path, interval_s: float = 1.0) -> AsyncGenerator[Prometheus]:
    """A Prometheus that scrapes ``target`` (host:port) under a configuration of ours, with its rules, but every
    ``interval_s``.

    Errors: CosError when it is not installed or does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise CosError("prometheus is not installed; install Debian's package (apt-get install prometheus)")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="cos-prometheus-") as name:
        folder = Path(name)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_fitted(config, target, interval_s)))
        log = folder / "prometheus.log"
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                stdout=sink,
                stderr=sink,
            )
        try:
            await until_ready(f"{url}/-/ready", process, log, "Prometheus")
            async with httpx.AsyncClient(base_url=url, timeout=30.0) as client:
                yield Prometheus(client)
        finally:
            await stop(process)


def _fitted(config: Path, target: str, interval_s: float) -> dict[str, Any]:
    """The configuration as it is, but for where and how often it scrapes."""
    read = yaml.safe_load(config.read_text(encoding="utf-8"))
    often = f"{round(1000 * interval_s)}ms"
    read["global"] |= {"scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often}
    read["rule_files"] = [str(config.resolve().parent / pattern) for pattern in read["rule_files"]]
    ours = [job for job in read["scrape_configs"] if job["job_name"] == JOB]
    for job in ours:
        job["static_configs"] = [{"targets": [target]}]
    read["scrape_configs"] = ours
    return read


def _series(result: Sequence[Mapping[str, Any]]) -> list[Series]:
    found = [Series(each["metric"], _numbers(each.get("values") or [each["value"]])) for each in result]
    return [series for series in found if series.values]


def _numbers(values: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    read = [(float(at), float(value)) for at, value in values]
    return [(at, value) for at, value in read if math.isfinite(value)]
