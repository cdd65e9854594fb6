"""Pictures on their way to a vLLM elsewhere: without loss, encoded once for all who show them."""

import asyncio
import base64
import io
from collections import OrderedDict

from PIL.Image import Image

from cos.search.types import Picture

KEPT_MIB = 256
"""How much of what was encoded is kept."""
COMPRESSION = 1
"""Of zlib: a higher one takes several times as long for a tenth of the size."""


class EncodedPictures:
    """Pictures as ``data:`` addresses, those asked for last."""

    def __init__(self, kept_mib: float = KEPT_MIB) -> None:
        self._room = int(kept_mib * 2**20)
        self._kept: OrderedDict[str, asyncio.Task[str]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    async def address(self, picture: Picture) -> str:
        """The picture as an address that holds it. The event loop stays free meanwhile."""
        encoding = self._kept.get(picture.digest)
        if encoding is None or (encoding.done() and (encoding.cancelled() or encoding.exception() is not None)):
            encoding = asyncio.create_task(asyncio.to_thread(_encoded, picture.image))
            self._kept[picture.digest] = encoding
        self._kept.move_to_end(picture.digest)
        # Who goes away does not take it from the others who wait.
        address = await asyncio.shield(encoding)
        self._sizes[picture.digest] = len(address)
        while len(self._kept) > 1 and sum(self._sizes.values()) > self._room:
            oldest, _ = self._kept.popitem(last=False)
            self._sizes.pop(oldest, None)
        return address


def _encoded(image: Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=COMPRESSION)
    return "data:image/png;base64," + base64.b64encode(file.getbuffer()).decode()
