"""A conversation in a file, as ``cos solve --history`` takes it."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cos.clients.errors import BadRequest
from cos.wire.conversation import Message, usable_conversation


def read_history(path: str) -> tuple[Message, ...]:
    """The messages of a JSON file: a list in the form of OpenAI's ``messages``, oldest first. Errors: BadRequest naming
    the file and what is wrong with it."""
    named = f"--history {path}"
    try:
        text = Path(path).expanduser().read_bytes()
        return usable_conversation(TypeAdapter(tuple[Message, ...]).validate_json(text))
    except OSError as error:
        raise BadRequest(f"{named}: {error.strerror or error}; give a JSON file", "history") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise BadRequest(
            f"{named}: {place.lstrip('.') or 'its content'}: {first['msg']}; give a list of messages as "
            '[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]',
            "history",
        ) from error
    except ValueError as error:
        raise BadRequest(f"{named}: {error}", "history") from error
