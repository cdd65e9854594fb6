"""The vLLM servers that run models for a command which searches or scores in this process."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cos.search.errors import InputError

if TYPE_CHECKING:
    from cos.engines.elsewhere import Elsewhere


@dataclass(frozen=True, slots=True)
class ModelServers:
    """As a user gives them. A model without an address is loaded by the command."""

    policy_url: str | None = None
    policy_api_key: str | None = field(default=None, repr=False)
    prm_url: str | None = None
    prm_api_key: str | None = field(default=None, repr=False)

    @property
    def are_named(self) -> bool:
        """Whether there is any."""
        return any((self.policy_url, self.policy_api_key, self.prm_url, self.prm_api_key))

    def checked(self) -> Elsewhere:
        """The same with the keys of the environment. Errors: InputError naming the flag that is no address."""
        from cos.engines.elsewhere import Elsewhere, vllm_url

        found: dict[str, str | None] = {}
        for role, url, key in (
            ("policy", self.policy_url, self.policy_api_key),
            ("prm", self.prm_url, self.prm_api_key),
        ):
            try:
                found[f"{role}_url"] = None if url is None else vllm_url(url)
            except InputError as error:
                raise InputError(f"--{role}-url {url}: {error}", role) from error
            # In the environment it may be meant for a server.
            found[f"{role}_api_key"] = key or (os.environ.get(f"COS_{role.upper()}_API_KEY") or None if url else None)
        return Elsewhere(**found)
