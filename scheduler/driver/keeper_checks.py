"""Are the outputs that a Scipion protocol registered really on disk?

Standard library only: `keeper_side.py` loads this file by path, under Scipion's Python.
"""

import contextlib
import os
import re
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MRC_HEADER = 1024
BYTES_BY_MODE = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
"""https://www.ccpem.ac.uk/mrc-format/mrc2014/"""


def set_problem(file: Path, size: int, own: str) -> str:
    """Why the set in `file` is not what its object says; empty: it is.

    Images outside the protocol's `own` folder are another's: the micrographs of imported
    particles, say, which may be anywhere or nowhere.
    """
    if not size:
        return f"{file} is an empty set"
    try:
        _asked_of_the_server(file).close()
    except FileNotFoundError:
        return f"{file} is missing"
    with _read_only(file) as db:
        rows = db.execute("SELECT count(*) FROM Objects").fetchone()[0]
        if rows != size:
            return f"{file} holds {rows} items, not {size}"
        problems = (image_problem(*found) for found in _images(db) if found[0].startswith(own))
        return next(filter(None, problems), "")


def image_problem(image: str, last: int = 1) -> str:
    """Why the file of `image` does not hold at least `last` whole images; empty: it does."""
    path = Path(re.sub(r":mrcs?$", "", image))
    try:
        with _asked_of_the_server(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            header = stream.read(MRC_HEADER)
    except FileNotFoundError:
        return f"{path} is missing"
    if path.suffix not in (".mrc", ".mrcs", ".map"):
        return "" if size else f"{path} is empty"
    if len(header) < MRC_HEADER:
        return f"{path} is cut off in its header"
    images, wanted = _announced(header)
    if not 0 < wanted <= size:
        return f"{path} has {size} of {wanted} bytes"
    if images < last:
        return f"{path} has {images} images, not {last}"
    return ""


def _asked_of_the_server(path: Path) -> BinaryIO:
    """The file, open, as whoever wrote it has closed it.

    An NFS client believes sizes, and that a name is missing, for up to a minute. Opening a file
    ends the one, opening its folder the other. https://man7.org/linux/man-pages/man5/nfs.5.html
    """
    with contextlib.suppress(OSError):
        os.scandir(path.parent).close()
    return path.open("rb")


def _announced(header: bytes) -> tuple[int, int]:
    """How many images and how many bytes an MRC header, of either byte order, speaks of."""
    order = "<" if struct.unpack("<i", header[12:16])[0] in BYTES_BY_MODE else ">"
    nx, ny, nz, mode = struct.unpack(f"{order}4i", header[:16])
    (extended,) = struct.unpack(f"{order}i", header[92:96])
    return nz, MRC_HEADER + extended + nx * ny * nz * BYTES_BY_MODE.get(mode, 4)


def members(file: Path) -> int | None:
    """The number of members in all classes of a set of classes together."""
    with _read_only(file) as db:
        column = _columns(db).get("_size")
        if column is None:
            return None
        total = db.execute(f"SELECT sum({column}) FROM Objects").fetchone()[0]  # noqa: S608
        return int(total or 0)


def iterations(file: Path) -> set[int]:
    """The RELION iterations whose images the set in `file` refers to."""
    with _read_only(file) as db:
        found = (re.search(r"_it(\d{3})_", image) for image, _ in _images(db))
        return {int(match[1]) for match in found if match}


def _images(db: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """Each image file of a set, with the highest index in it that is used."""
    columns = _columns(db)
    for name, column in columns.items():
        if not name.endswith("_filename"):
            continue
        index = columns.get(f"{name.removesuffix('_filename')}_index", "1")
        # The names of columns are Scipion's own: c01, c02 ...
        query = f"SELECT {column}, max({index}) FROM Objects GROUP BY {column}"  # noqa: S608
        yield from ((str(image), int(last or 1)) for image, last in db.execute(query) if image)


def _columns(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT label_property, column_name FROM Classes"))


@contextlib.contextmanager
def _read_only(file: Path) -> Iterator[sqlite3.Connection]:
    """Without locks: nobody writes it any more, but a node that vanished may still hold one."""
    uri = f"{file.absolute().as_uri()}?mode=ro&nolock=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
        yield db
