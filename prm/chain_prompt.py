"""A prompt that holds a whole chain, for the formats that show the PRM a new one each time."""

from cos.prm.ports import Reader, ReaderSession
from cos.search.errors import ChainTooLong, InputError
from cos.search.prompt import Prompt


async def open_chain(reader: Reader, prompt: Prompt) -> ReaderSession:
    """A session on a prompt that holds a chain or several. Errors: ChainTooLong where it does not fit the context: the
    question did, so that nothing which was asked is to blame; EngineError."""
    try:
        return await reader.open(prompt)
    except InputError as error:
        raise ChainTooLong(f"the PRM cannot be shown this chain: {error}") from error
