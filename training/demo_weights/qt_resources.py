"""Read files out of a Qt binary resource collection (``.rcc``).

Format as written by Qt's ``rcc`` (qtbase, ``src/tools/rcc/rcc.cpp``): a header with the
offsets of a tree of nodes, of data blocks and of UTF-16 names; all numbers big-endian.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_COMPRESSED = 1
_DIRECTORY = 2


def read_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name with folders, contents) of every file stored plainly or with zlib.

    Raises:
        ValueError: not a resource collection.
    """
    blob = path.read_bytes()
    if blob[:4] != b"qres":
        raise ValueError(f"{path} is not a Qt resource collection: it does not begin with 'qres'")
    version, tree, data, names = struct.unpack_from(">4I", blob, 4)
    node_size = 22 if version >= 2 else 14

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", blob, names + offset)
        start = names + offset + 6
        return blob[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        offset = tree + index * node_size
        name_offset, flags = struct.unpack_from(">IH", blob, offset)
        name = folder if index == 0 else f"{folder}/{name_at(name_offset)}".lstrip("/")
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">2I", blob, offset + 6)
            for child in range(first, first + count):
                yield from walk(child, name)
            return
        (at,) = struct.unpack_from(">I", blob, offset + 10)
        (size,) = struct.unpack_from(">I", blob, data + at)
        contents = blob[data + at + 4 : data + at + 4 + size]
        if flags & _COMPRESSED:
            contents = zlib.decompress(contents[4:])  # the first four bytes are its length
        yield name, contents

    yield from walk(0, "")
