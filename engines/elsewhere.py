"""Which of a pair's models run on a vLLM server elsewhere, as users say it: an address for each role, and its key."""

import re
from dataclasses import dataclass, field

from cos.engines.settings import SCRIPTED, Role
from cos.search.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Addresses of vLLM servers; a model without one runs in this process."""

    policy_url: str | None = None
    policy_api_key: str | None = field(default=None, repr=False)
    prm_url: str | None = None
    prm_api_key: str | None = field(default=None, repr=False)

    def url(self, role: Role) -> str | None:
        """Where the model of a role runs; None: in this process."""
        return self.policy_url if role == "policy" else self.prm_url

    def api_key(self, role: Role) -> str | None:
        """The key that its server asks for."""
        return self.policy_api_key if role == "policy" else self.prm_api_key

    def check(self, policy: str | None, prm: str | None) -> None:
        """Whether it suits the models by these names. ``prm``: None where no PRM has an engine of its own. Errors:
        InputError for an address without a model, or a key without an address."""
        models: tuple[tuple[Role, str | None], ...] = (("policy", policy), ("prm", prm))
        for role, name in models:
            url = self.url(role)
            if url is not None and name in (None, SCRIPTED):
                raise InputError(f"--{role}-url {url} needs a --{role}: the model that is served there", role)
            if url is None and self.api_key(role) is not None:
                raise InputError(f"--{role}-api-key needs a --{role}-url: the server that asks for the key", role)


NOWHERE_ELSE = Elsewhere()
"""Both models run in this process."""


def vllm_url(given: str) -> str:
    """The address of a vLLM server without what users may have put behind it. Errors: InputError."""
    if not re.fullmatch(r"https?://[^\s/?#@]+[^\s?#@]*", given):
        raise InputError("expected the address of a vLLM server, as http://host:8000", "url")
    return given.rstrip("/").removesuffix("/v1").rstrip("/")
