"""What `cos check` says of a model on a vLLM server elsewhere: that it is there, and what it cannot carry."""

from collections.abc import Iterator

from cos.engines.launch import Engines
from cos.engines.placement import NAMES
from cos.engines.ports import ComesBack
from cos.engines.settings import EngineSettings
from cos.server.checks.finding import Finding
from cos.server.settings import Settings


def not_asked(settings: EngineSettings) -> Finding:
    """Of a model whose files are not looked at here."""
    found = f"not looked at: it runs at {settings.url}"
    return Finding(name=f"{NAMES[settings.role]} files", state="ok", found=found)


def check_elsewhere(settings: Settings, engines: Engines) -> Iterator[Finding]:
    """One finding a model elsewhere, a warning where its server can be started so that it carries more."""
    for role, engine in zip(("policy", "prm"), engines.all, strict=False):
        if not isinstance(engine, ComesBack):
            continue
        url = settings.elsewhere.url(role)
        told = [lack.partition("; start it ") for lack in engine.lacks]
        found = f"at {url}; it {'; it '.join(what for what, _, _ in told)}" if told else f"at {url}"
        todo = [how for _, is_curable, how in told if is_curable]
        yield Finding(
            name=f"{NAMES[role]} elsewhere",
            state="warning" if todo else "ok",
            found=found,
            todo=f"start it {', '.join(todo)}" if todo else "",
            param=role,
        )
