"""From a picture file to the one upright RGB picture that training, labelling, search and server see.

All of them read pictures here, so that none sees other pixels than the rest, or takes a file that the rest refuse.
"""

import base64
import binascii
import hashlib
import io
import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cos.search.errors import BadImage, ImageFault, InputError
from cos.search.types import Picture

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ASPECT = 200
"""Longer side over shorter side: beyond it image processors fail or make thousands of tiles."""
BLOCK_BYTES = 4096
"""What a decoder is fed at a time: how soon it notices that nobody waits for its picture any more."""

_PIXELS = re.compile(r"\((\d+) pixels\)")
_SCALES = {"L;2": 85, "L;4": 17}
"""From levels of grey as a PNG counts them to those of 8 bits, by Pillow's names of how pixels are stored."""
_DATA_URI = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(?:;[^,;]*)*),", re.IGNORECASE)
_BLANK = str.maketrans("", "", " \t\r\n")


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How large a picture may be. The defaults are those of a server, so that training sees nothing it cannot serve."""

    megapixels: float = 25.0
    file_mib: float = 16.0
    raised_by: str = ""
    """What raises the limit of megapixels, for the message; empty where nothing does."""

    @property
    def file_bytes(self) -> int:
        return int(self.file_mib * 2**20)


SERVED = PictureLimits()
"""What a server takes unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a picture comes from, for errors."""

    name: str
    param: str = "image"
    """The value that is to blame; see `InputError`."""

    def refused(self, why: str, fault: ImageFault) -> BadImage:
        """The error of a picture that cannot be used."""
        return BadImage(f"{self.name}: {why}", self.param, fault)


def of_file(path: str) -> Origin:
    """A picture file as errors name it."""
    return Origin(f"picture {path!r}")


def read_file(path: str, limits: PictureLimits = SERVED) -> bytes:
    """A picture file's bytes. Errors: BadImage naming the file, and size and limit of one that is too large."""
    origin, most = of_file(path), limits.file_bytes
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        # A ValueError is a path with a NUL character in it.
        raise origin.refused(f"cannot be read: {getattr(error, 'strerror', error)}", "unreadable") from error
    if len(data) > most:
        raise origin.refused(
            f"{max(size, len(data)) / 2**20:.1f} MiB, the limit is {limits.file_mib:g} MiB; "
            "make the picture smaller, or save it as JPEG",
            "too_large",
        )
    return data


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of a data URI or of bare base64; blanks and line breaks in it do not count. Errors: BadImage."""
    head = _DATA_URI.match(text.lstrip()[:256])
    body = text.lstrip()
    if head:
        if "base64" not in head["options"].lower():
            raise BadImage(
                f"{param}: a data URI that is not base64; send data:image/png;base64,...", param, "not_base64"
            )
        body = body[head.end() :]
    elif body[:5].lower() == "data:":
        raise BadImage(f"{param}: a data URI without a comma; send data:image/png;base64,...", param, "not_base64")
    try:
        data = base64.b64decode(body.translate(_BLANK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(
            f"{param}: not base64; the server opens no paths: send the file's bytes, as data:image/png;base64,...",
            param,
            "not_base64",
        ) from error
    return data


def decode(
    data: bytes, origin: Origin, limits: PictureLimits = SERVED, check: Callable[[], None] = lambda: None
) -> Picture:
    """The picture in a file, and its digest. Arguments and errors: as `pixels`."""
    image = pixels(data, origin, limits, check)
    check()
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return Picture(image, digest.hexdigest())


def pixels(
    data: bytes, origin: Origin, limits: PictureLimits = SERVED, check: Callable[[], None] = lambda: None
) -> Image.Image:
    """One upright RGB picture, the first frame of an animation, transparency on white.

    ``check`` is called between its parts and may end it. Errors: BadImage, and those of ``check``, which should be no
    ``Exception``.
    """
    check()
    with opened(_Checked(data, check), origin, limits) as file:
        file.decodermaxblock = BLOCK_BYTES
        return _to_rgb(_upright(file, check))


def as_seen(image: Image.Image) -> Image.Image:
    """A picture that somebody opened with Pillow, as `pixels` makes it of the file; the one given stays as it is."""
    return _to_rgb(_turned(image.copy()))


class _Checked(io.BytesIO):
    """A file that calls ``check`` whenever more of it is read."""

    def __init__(self, data: bytes, check: Callable[[], None]) -> None:
        super().__init__(data)
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)


@contextmanager
def opened(file: io.BytesIO, origin: Origin, limits: PictureLimits = SERVED) -> Generator[ImageFile.ImageFile]:
    """The picture in a file, none of its pixels decoded; what goes wrong with it is told. Errors: BadImage."""
    if not file.getbuffer().nbytes:
        raise origin.refused("empty; give a picture", "empty")
    try:
        with Image.open(file, formats=FORMATS) as found:
            _check_size(found.width, found.height, origin, limits)
            yield found
    except InputError:
        raise
    except UnidentifiedImageError:
        raise origin.refused("not an image (expected PNG, JPEG, WEBP, GIF or BMP)", "not_an_image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow looks at the size before anyone can ask for it, and tells it in words alone.
        told = _PIXELS.search(str(error))
        size = f"{int(told[1]) / 1e6:.1f}" if told else f"more than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}"
        raise _too_large(size, origin, limits) from None
    except Exception as error:
        # A broken file makes Pillow raise nearly anything: OSError, SyntaxError, ValueError, struct.error, ...
        raise origin.refused("a broken image file; its pixels cannot be decoded", "broken") from error


def _check_size(width: int, height: int, origin: Origin, limits: PictureLimits) -> None:
    if min(width, height) < 1:
        raise origin.refused(f"{width}x{height} pixels; give a picture with pixels in it", "empty")
    megapixels = width * height / 1e6
    if megapixels > limits.megapixels:
        raise _too_large(f"{width}x{height} pixels, {megapixels:.1f}", origin, limits)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise origin.refused(
            f"{width}x{height} pixels; one side may be {MAX_ASPECT} times the other at most", "aspect_ratio"
        )


def _too_large(size: str, origin: Origin, limits: PictureLimits) -> BadImage:
    raised = f" ({limits.raised_by})" if limits.raised_by else ""
    why = f"{size} megapixels, the limit is {limits.megapixels:g}{raised}; give a smaller picture"
    return origin.refused(why, "too_large")


def _upright(image: ImageFile.ImageFile, check: Callable[[], None]) -> Image.Image:
    """Its pixels, turned as its EXIF orientation says. That is read last: a broken EXIF block turns nothing."""
    stored_as = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
    image.load()
    check()
    _scale_clear_colour(image, stored_as)
    return _turned(image)


def _turned(image: Image.Image) -> Image.Image:
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _scale_clear_colour(image: Image.Image, stored_as: str) -> None:
    """A PNG names its transparent colour in the depth of the file; Pillow scales pixels to 8 bits, but not the name."""
    match image.info.get("transparency"):
        case int(level) if stored_as in _SCALES:
            image.info["transparency"] = level * _SCALES[stored_as]
        case (int(red), int(green), int(blue)) if stored_as == "RGB;16B":
            image.info["transparency"] = (red >> 8, green >> 8, blue >> 8)
        case _:
            pass


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits a pixel; Pillow's own conversion would clip instead of scaling, and forget the clear level."""
    import numpy as np

    levels = np.asarray(image)
    grey = Image.fromarray((levels.clip(0, 65535) >> 8).astype("uint8"))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(levels == clear, 0, 255).astype("uint8"))))
