"""Where a candidate is to stand in the tree, and the sampling seed that follows from it."""

import hashlib

from msgspec import Struct

from cos.search.types import Chain, Path


class Place(Struct, frozen=True, gc=False):
    """Where a candidate is to stand, and how it is to be drawn."""

    chain: Chain
    """What it continues."""
    path: Path
    temperature: float


def seed_of(root: int, path: Path) -> int:
    """The sampling seed of a place in the tree: siblings differ, and no order of events can change it."""
    text = f"{root}:{','.join(map(str, path))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1
