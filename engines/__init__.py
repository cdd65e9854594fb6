"""The only code that talks to a model runtime: vLLM in process, and a scripted engine that needs no model."""
