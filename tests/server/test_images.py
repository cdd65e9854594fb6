"""Pictures: what is read, how it is made one upright RGB image, and what is refused without a trace of the inside."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cos.engines.pictures import Origin, PictureLimits, decode, decode_base64
from cos.search.errors import BadImage
from cos.server.errors import ImageUrlDisabled
from tests.server.support import data_uri, picture_bytes

IMAGE = Origin("image")
SMALL = PictureLimits(1.0)
ADDRESS = re.compile("0x[0-9a-f]{6}")
# A busy machine is no bug.
patient = settings(suppress_health_check=[HealthCheck.too_slow])


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_five_formats_are_read(format: str) -> None:
    picture = decode(picture_bytes(40, 30, format), IMAGE)
    assert (picture.image.mode, picture.image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert decode(picture_bytes(mode=mode), IMAGE).image.mode == "RGB"


def test_cmyk_becomes_rgb() -> None:
    assert decode(picture_bytes(format="JPEG", mode="CMYK"), IMAGE).image.mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    half = Image.fromarray(np.full((4, 4), 0x8000, dtype="uint16"))
    assert decode(saved(half), IMAGE).image.getpixel((0, 0)) == (128, 128, 128)


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode(saved(clear), IMAGE).image.getpixel((0, 0)) == (255, 255, 255)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, colour: int, row: bytes, clear: tuple[int, ...]) -> bytes:
    """A PNG of 2x1 pixels whose colour ``clear`` is transparent. ``colour``: 0 is grey, 2 is RGB."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = [
        (b"IHDR", header),
        (b"tRNS", struct.pack(f">{len(clear)}H", *clear)),
        (b"IDAT", zlib.compress(b"\0" + row)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "other"),
    [
        (1, 0, b"\x40", (1,), 0),
        (2, 0, b"\x10", (1,), 0),
        (4, 0, b"\x05", (5,), 0),
        (8, 0, b"\x00\x05", (5,), 0),
        (16, 0, b"\x80\x00\x12\x34", (0x1234,), 0x80),
        (16, 0, b"\x80\x00\x00\x00", (0,), 0x80),
        (8, 2, b"\0\0\0\1\2\3", (1, 2, 3), 0),
        (16, 2, b"\0\0\0\0\0\0\x12\x34\x56\x78\x9a\xbc", (0x1234, 0x5678, 0x9ABC), 0),
    ],
)
def test_a_clear_colour_lies_on_white_at_every_depth(
    depth: int, colour: int, row: bytes, clear: tuple[int, ...], other: int
) -> None:
    image = decode(png(depth, colour, row, clear), IMAGE).image
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(other,) * 3, (255,) * 3]


def test_the_first_frame_of_an_animation_is_the_picture() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    animation = saved(red, "GIF", save_all=True, append_images=[blue])
    assert decode(animation, IMAGE).image.getpixel((0, 0)) == (255, 0, 0)


def test_the_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(image, "JPEG", exif=exif), IMAGE).image.size == (20, 30)


def test_the_digest_tells_shapes_of_the_same_bytes_apart() -> None:
    wide, high = (decode(picture_bytes(*size), IMAGE) for size in ((100, 30), (30, 100)))
    assert wide.image.tobytes() == high.image.tobytes()
    assert wide.digest != high.digest
    assert wide.digest == decode(picture_bytes(100, 30, "BMP"), IMAGE).digest


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (200, 1)])
def test_small_pictures_are_pictures(size: tuple[int, int]) -> None:
    assert decode(picture_bytes(*size), IMAGE).image.size == size


def test_the_megapixel_limit_is_exact() -> None:
    assert decode(picture_bytes(1000, 1000), IMAGE, SMALL).image.size == (1000, 1000)
    with pytest.raises(BadImage, match=r"image: 1000x1001 pixels, 1\.0 megapixels, the limit is 1;"):
        decode(picture_bytes(1000, 1001), IMAGE, SMALL)


@pytest.mark.parametrize("format", ["TIFF", "PPM", "EPS", "PDF", "ICO", "TGA"])
def test_other_formats_are_refused_whatever_their_name(format: str) -> None:
    with pytest.raises(BadImage, match="not an image"):
        decode(picture_bytes(format=format), IMAGE)


@patient
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(BadImage) as refused:
        decode(data, IMAGE)
    assert not ADDRESS.search(str(refused.value))


@patient
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.data())
def test_a_damaged_file_is_a_picture_or_refused_in_our_words(format: str, data: st.DataObject) -> None:
    whole = bytearray(picture_bytes(16, 16, format))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    told = ""
    try:
        decode(cut, IMAGE)
    except BadImage as refused:
        told = str(refused)
    assert not ADDRESS.search(told)


def test_base64_with_line_breaks_and_data_uris_in_any_case() -> None:
    uri = data_uri(b"picture" * 20)
    assert decode_base64(uri.replace("data:", "DATA:"), "image") == b"picture" * 20
    assert decode_base64(" \n" + uri[:60] + "\r\n" + uri[60:], "image") == b"picture" * 20


@pytest.mark.parametrize("text", ["data:image/png;base64", "data:,x", "data:image/png,x", "a", "a=b", "ä", "a-b_"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises((BadImage, ImageUrlDisabled)):
        decode_base64(text, "image")
