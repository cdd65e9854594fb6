"""What others do on the same models, beside ours.

- its_hub 1.2 (Red Hat; from PyPI, in an environment of its own) is a library in front of an OpenAI-compatible endpoint.
  It gets what its documentation asks for: vLLM's own server for the policy, and one for the PRM.
- search-and-learn (Hugging Face) and ThinkBooster search in the process of their models; `published` runs their
  algorithms again, as they schedule work, on our engines.
"""
