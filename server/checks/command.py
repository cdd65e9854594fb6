"""The command ``cos check``."""

import asyncio
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cos.search.errors import InputError
from cos.server.checks.elsewhere import check_elsewhere
from cos.server.checks.files import check_files
from cos.server.checks.finding import Finding, State, is_refused, refused
from cos.server.flags import load_settings
from cos.server.selfcheck import check_running
from cos.server.service import open_service, start_engines
from cos.server.settings import Settings
from cos.server.unmetered import Unmetered

PROGRAM = "cos check"
AS_JSON, FILES_ONLY = "--json", "--files-only"
COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "refused": "bold red"}


def main(arguments: Sequence[str]) -> int:
    """Prints a row a check; gives the exit status: 2 where something is refused, else 0.

    ``arguments``: those of ``cos-serve``, and two of its own. Errors: EngineDead.
    """
    own = {AS_JSON, FILES_ONLY} & set(arguments)
    usage = f"{PROGRAM} [{AS_JSON}] [{FILES_ONLY}] [--policy MODEL] [--prm MODEL] [flags of cos-serve]"
    about = (
        "Tells whether a server could serve with a policy and a PRM, one row a check. First the files alone are read; "
        f"then the engines are started and tried, unless something was refused or {FILES_ONLY} is given. {AS_JSON} "
        "prints the rows as JSON. Exit status: 0, also with warnings; 2 where something is refused."
    )
    rest = [argument for argument in arguments if argument not in own]
    settings = load_settings(rest, program=PROGRAM, usage=usage, about=about)
    findings = asyncio.run(checked(settings, files_only=FILES_ONLY in own))
    if AS_JSON in own:
        rows = msgspec.json.format(msgspec.json.encode(findings), indent=2)
        Console(soft_wrap=True, highlight=False, markup=False).print(rows.decode())
    else:
        Console().print(table(findings))
    return 2 if is_refused(findings) else 0


async def checked(settings: Settings, *, files_only: bool) -> list[Finding]:
    """All findings. Engines are started only where the files refuse nothing."""
    findings = [*await check_files(settings)]
    if files_only or is_refused(findings):
        return findings
    try:
        async with open_service(settings, Unmetered(), start_engines) as service:
            findings += check_elsewhere(settings, service.engines)
            findings += [finding async for finding in check_running(service, Console(quiet=True))]
    except InputError as error:
        findings.append(refused("start", error, "give another checkpoint"))
    return findings


def table(findings: Sequence[Finding]) -> Table:
    """A row a check."""
    rows = Table("check", "state", "found", "what to do")
    for finding in findings:
        colour = COLOURS[finding.state]
        rows.add_row(finding.name, f"[{colour}]{finding.state}[/]", escape(finding.found), escape(finding.todo))
    return rows
