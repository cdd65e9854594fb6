"""A server that counts nothing (``--no-metrics``): what it tells of its work is not listened to."""

from collections.abc import Sequence

from cos.search.chain_scores import ScoredChain
from cos.search.errors import ImageFault
from cos.server.admission import Admission, Refusal
from cos.server.metrics import Account, Outcome
from cos.server.traces import Status
from cos.server.watch import Watch


class Unmetered:
    """Stands in for `cos.server.metrics.Metrics`."""

    def watch(self, admission: Admission, watch: Watch) -> None:
        del admission, watch

    def describe(self, *, version: str, policy: str, prm: str) -> None:
        del version, policy, prm

    def ended(self, account: Account, outcome: Outcome) -> None:
        del account, outcome

    def refused(self, reason: Refusal) -> None:
        del reason

    def froze(self, engine: str) -> None:
        del engine

    def decoded(self, seconds: float) -> None:
        del seconds

    def scored(self, purpose: str, chains: Sequence[ScoredChain]) -> None:
        del purpose, chains

    def refused_picture(self, fault: ImageFault) -> None:
        del fault

    def traced(self, status: Status) -> None:
        del status
