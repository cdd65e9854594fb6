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
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    # Uvicorn tells of every start and stop; ours is the line that counts.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.root.level))
    from rich.console import Console

    from cos.server.process import run

    raise SystemExit(run(settings, Console()))


if __name__ == "__main__":
    main()
