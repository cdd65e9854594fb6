"""What all sections of a recipe are."""

from typing import Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator


def _types_in(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


class Keys(BaseModel):
    """Keys of a recipe; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _no_flag_for_a_number(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """`steps: true` is no number of steps, though Python takes it for 1."""
        for key, value in cast("dict[str, Any]", given).items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and bool not in _types_in(field.annotation):
                raise ValueError(f"{key}: true and false mean nothing here")
        return handler(given)
