"""Imported first by the process that engine processes are forked from, and by nothing else.

Such a process can be given modules to import and nothing to do, so this is the one module whose import has an effect:
until vLLM has set up its logging, its loggers obey no setting of its own.
"""

import logging
import os

logging.getLogger("vllm").setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))
