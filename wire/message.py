"""What all that goes over the wire has in common."""

from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from cos.search.types import End, FinishReason


class Message(BaseModel):
    """Frozen. A reader keeps fields that it does not know: they are a newer server's. A number that is not finite is
    written as null."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="null", use_attribute_docstrings=True)


CandidateEnd = Annotated[str, WithJsonSchema({"type": "string", "enum": list(get_args(End))})]
"""How a candidate ended, see `cos.search.types.End`. A reader takes one that it does not know."""

SearchEnd = Annotated[str, WithJsonSchema({"type": "string", "enum": list(get_args(FinishReason))})]
"""Why a search ended, see `cos.search.types.FinishReason`. A reader takes one that it does not know."""
