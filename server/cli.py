"""The command ``cos-serve``.

Engines start their own processes by spawning, which imports this module again: importing it does nothing, and what the
server needs is imported when it starts.
"""

import logging
import sys

from cos.search.extras import NotInstalled, needs


def main() -> None:
    """Runs the server. Exit codes: 0 stopped as asked, 1 an engine failed, 2 something to put right on the caller's
    side, named in the last line."""
    try:
        with needs("serve", "cos-serve"):
            code = _serve(sys.argv[1:])
    except NotInstalled as error:
        sys.stderr.write(f"cos-serve: {error}\n")
        code = 2
    raise SystemExit(code)


def _serve(arguments: list[str]) -> int:
    from rich.console import Console

    from cos.server.flags import load_settings
    from cos.server.logs import configure
    from cos.server.process import run

    settings = load_settings(arguments)
    configure(settings.log_format, settings.log_level, messages=settings.log_questions)
    try:
        return run(settings, Console(quiet=settings.log_format == "json"))
    except ModuleNotFoundError:
        raise
    except Exception:
        logging.getLogger(__name__).critical("the server ended by an error of its own", exc_info=True)
        return 1


if __name__ == "__main__":
    main()
