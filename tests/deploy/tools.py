"""Programs of Prometheus that some tests need."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Its path. Without it the test is skipped, but fails where CI is set: there it has to be installed."""
    path = shutil.which(name)
    if path is not None:
        return path
    told = f"{name} is not installed; install Debian's package (apt-get install prometheus)"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
