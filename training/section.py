"""What all sections of a recipe are."""

from pydantic import BaseModel, ConfigDict


class Keys(BaseModel):
    """Keys of a recipe; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
