"""The server as a process: its socket, its signals, its start and its end.

The socket is bound before any model is loaded, so that a taken port is found at once, and listens only when everything
is ready. The first stop signal lets running searches end, the second ends them with the best they have. A lost engine
ends the process with exit code 1, so that whoever looks after it can start it again.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from cos.engines.settings import SCRIPTED
from cos.search.errors import EngineDead, InputError
from cos.server.app import create_app
from cos.server.logs import log_unheard, say
from cos.server.race import cancelled
from cos.server.selfcheck import self_check
from cos.server.service import Service, StartEngines, launch_engines
from cos.server.settings import Settings

logger = logging.getLogger(__name__)

LAST_REPLIES_S = 5
"""What is left for writing replies once the searches are over."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet. Errors: InputError when the address cannot be had."""
    host, port = settings.host, settings.port
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> InputError:
    return InputError(
        f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it, or choose another --port or --host",
        "port",
    )


class _Server(uvicorn.Server):
    """Uvicorn, leaving the signals to us and saying when it listens."""

    def __init__(self, config: uvicorn.Config, settings: Settings, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._settings = settings
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            for listener in sockets or ():
                listener.listen(self.config.backlog)
        except OSError as error:
            # Another server that was bound to the same port, and not listening either, was ready first.
            raise _cannot_listen(self._settings.host, self._settings.port, error) from error
        await super().startup(sockets)
        self._announce()


async def serve(settings: Settings, listener: socket.socket, console: Console, start: StartEngines) -> int:
    """Serves until a stop signal or until an engine is lost; gives the exit code.

    Errors: InputError for models that cannot be used, EngineDead when an engine dies at the start.
    """
    say(
        console,
        f"cos-serve {version('cos-serve')}: policy {settings.policy}, PRM {settings.prm_name or 'none'}, "
        f"strategy {settings.strategy}; starting the engines",
    )
    app = create_app(settings, start=start)
    starting = asyncio.current_task()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unheard)

    def give_up() -> None:
        # Engines that are being loaded cannot be interrupted; a second signal does not wait for them.
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if starting is not None:
            starting.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, give_up)
    try:
        async with app.router.lifespan_context(app):
            service: Service = app.state.service
            await asyncio.gather(self_check(service, console), _warm(service))
            return await _listen(app, service, listener, console)
    except asyncio.CancelledError:
        logger.warning("stopped before the start was complete")
    return 0


async def _warm(service: Service) -> None:
    """Readies what compares answers, so that the first vote need not wait for it. A start without a model is to be
    quick: there the first vote does it."""
    if service.settings.policy == SCRIPTED:
        return
    try:
        await service.comparer.warm()
    except Exception:
        # Votes do without algebra then, and each says so.
        logger.warning("the workers that compare answers did not start", exc_info=True)


async def _listen(app: FastAPI, service: Service, listener: socket.socket, console: Console) -> int:
    def announce() -> None:
        host, port = service.settings.host, listener.getsockname()[1]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        say(console, f"cos-serve is ready: {url} (API: /solve and /v1, docs: /docs)")

    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        # Ours says more.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_REPLIES_S,
    )
    server = _Server(config, service.settings, announce)
    stopping: list[asyncio.Task[None]] = []

    async def stop() -> None:
        await service.drain()
        server.should_exit = True

    async def stop_when_lost() -> None:
        await service.watch.lost.wait()
        logger.error("an engine is lost; the server ends with exit code 1")
        await stop()

    def on_signal() -> None:
        if stopping:
            service.stop.set()
        else:
            stopping.append(asyncio.create_task(stop()))

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    losing = asyncio.create_task(stop_when_lost())
    try:
        await server.serve(sockets=[listener])
        await asyncio.gather(*stopping)
    finally:
        await cancelled(losing)
    return 1 if service.watch.lost.is_set() else 0


def run(settings: Settings, console: Console, start: StartEngines = launch_engines) -> int:
    """Binds, starts, serves; gives the exit code, and tells on standard error what went wrong."""
    errors = Console(stderr=True)

    def complain(error: Exception) -> None:
        if settings.log_format == "json":
            logger.error("%s", error)
        else:
            errors.print(f"cos-serve: {error}", soft_wrap=True, markup=False, highlight=False)

    try:
        listener = bind(settings)
        loops = uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()
        with listener, asyncio.Runner(loop_factory=loops) as runner:
            return runner.run(serve(settings, listener, console, start))
    except InputError as error:
        complain(error)
        return 2
    except EngineDead as error:
        complain(error)
        return 1
