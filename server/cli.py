"""The command ``cos-serve``.

Engines start their own processes by spawning, which imports this module again: importing it does nothing, and what the
server needs is imported when it starts.
"""

import logging
import sys

from cos.server.flags import load_settings


def main() -> None:
    """Runs the server. Exit codes: 0 stopped as asked, 1 an engine failed, 2 something to put right on the caller's
    side, named in the last line."""
    settings = load_settings(sys.argv[1:])
    from rich.console import Console

    from cos.server.logs import configure
    from cos.server.process import run

    configure(settings.log_format, settings.log_level, messages=settings.log_questions)
    try:
        code = run(settings, Console(quiet=settings.log_format == "json"))
    except Exception:
        logging.getLogger(__name__).critical("the server ended by an error of its own", exc_info=True)
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
