"""How many pictures a question and the conversation before it may have."""

from collections.abc import Sequence
from dataclasses import dataclass

from cos.checkpoints import resolve
from cos.engines.checkpoint import pictures_of_a_question
from cos.engines.launch import Engines
from cos.engines.ports import Runtime
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import CountsPictures
from cos.server.settings import Settings
from cos.wire.asked import Sent


@dataclass(frozen=True, slots=True)
class PictureRule:
    """The fewest and the most pictures, and who says so."""

    fewest: int
    most: int
    why: str
    """Whose limit the most is, for the message."""

    @classmethod
    def of(cls, settings: Settings, engines: Engines, models: Models) -> "PictureRule":
        """What holds for these models: the server's own limit, or that of a model which takes fewer. Errors: InputError
        for a picture that is required where none is taken."""
        name = settings.policy
        own = pictures_of_a_question(resolve("policy", name))
        limits = [
            (settings.max_images, "this server's limit (--max-images)"),
            (_taken(engines.policy, settings.max_images), f"what the policy {name} takes"),
        ]
        if own is not None:
            limits.append((own, f"what the policy {name} was trained on"))
        if engines.prm is not None and getattr(models.scorer, "sees_pictures", True):
            limits.append((_taken(engines.prm, settings.max_images), f"what the PRM {settings.prm_name} takes"))
        most, why = min(limits, key=lambda limit: limit[0])
        needs = bool(own) if settings.image_required is None else settings.image_required
        if needs and not most:
            raise InputError(f"--image-required, and 0 is {why}: it reads text alone; leave it out", "image_required")
        return cls(int(needs), most, why)

    def check(self, sent: Sequence[Sent]) -> None:
        """Errors: InputError naming the number and the limit."""
        if len(sent) < self.fewest:
            raise InputError(
                "image is missing; send a data URI, or the file as multipart/form-data "
                "(--no-image-required lets questions without one in)",
                "image",
            )
        if len(sent) <= self.most:
            return
        param = sent[self.most].param
        if not self.most:
            raise InputError(
                f"{param}: there is a picture, and 0 is {self.why}: it reads text alone; ask without a picture, or "
                "serve a vision-language model",
                param,
            )
        raise InputError(
            f"{param}: {len(sent)} pictures in the question and the conversation before it; "
            f"{self.most} is {self.why}; send fewer",
            param,
        )


def _taken(runtime: Runtime, otherwise: int) -> int:
    return runtime.most_pictures if isinstance(runtime, CountsPictures) else otherwise
