"""MRC maps: is the file as long as its header says? https://www.ccpem.ac.uk/mrc_format/mrc2014.php"""

import struct
from dataclasses import dataclass
from pathlib import Path

from scsched.steps.star import Torn

HEADER_BYTES = 1024
LABELS_AT = 224
LABEL_BYTES = 80
BITS_PER_VOXEL = {0: 8, 1: 16, 2: 32, 3: 32, 4: 64, 6: 16, 12: 16, 101: 4}


@dataclass(frozen=True, slots=True)
class Header:
    columns: int
    rows: int
    sections: int
    mode: int
    extended_bytes: int

    @property
    def file_bytes(self) -> int:
        """How long the whole file is to be. Mode 101 packs two voxels of a row in a byte."""
        row_bytes = (self.columns * BITS_PER_VOXEL[self.mode] + 7) // 8
        return HEADER_BYTES + self.extended_bytes + row_bytes * self.rows * self.sections


def read_header(path: Path) -> Header:
    """:raises Torn: the file is missing, shorter than a header, or no MRC map."""
    return _read(path)[0]


def _read(path: Path) -> tuple[Header, int]:
    """Its header and its size in bytes, both of the file that was opened."""
    try:
        with path.open("rb") as file:
            block = file.read(HEADER_BYTES)
            size = file.seek(0, 2)
    except FileNotFoundError as exc:
        raise Torn(f"{path}: missing") from exc
    except OSError as exc:
        raise Torn(f"{path}: {exc.strerror}") from exc
    if len(block) < HEADER_BYTES:
        raise Torn(f"{path}: {len(block)} bytes are no MRC header")
    for order in ("<", ">"):
        header = _unpack(order, block)
        if min(header.columns, header.rows, header.sections) > 0 and header.mode in BITS_PER_VOXEL:
            return header, size
    raise Torn(f"{path}: not an MRC header")


def require_whole(path: Path) -> Header:
    """The header of a file that has exactly the size it announces.

    :raises Torn: any other.
    """
    header, size = _read(path)
    if size != header.file_bytes:
        raise Torn(f"{path}: {size} bytes where the header says {header.file_bytes}")
    return header


def blank_labels(path: Path) -> None:
    """Empty the text labels, where RELION leaves the time of writing: then equal maps are equal."""
    with path.open("r+b") as file:
        file.seek(LABELS_AT - 4)
        file.write(bytes(4 + 10 * LABEL_BYTES))


def _unpack(order: str, block: bytes) -> Header:
    columns, rows, sections, mode = struct.unpack(f"{order}4i", block[:16])
    (extended,) = struct.unpack(f"{order}i", block[92:96])
    return Header(columns, rows, sections, mode, max(0, extended))
