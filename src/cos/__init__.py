"""cos-serve: PRM-guided inference-time search for vision-language models."""

__version__ = "0.1.0"
