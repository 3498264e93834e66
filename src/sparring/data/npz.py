"""`.npz` files that need not fit in memory: members stored without compression are memory-mapped."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparring.data.arrays import Array, Arrays
from sparring.errors import BadInput, line

PIECE = 1 << 18
DO = "write it with np.savez(path, x=x, y=y)"


def load_npz(path: Path, pairs: Sequence[tuple[str, str]] = (("x", "y"),), name: str = "") -> Arrays:
    """The first of some pairs of members, inputs and labels, that an `.npz` holds.

    What `np.savez` wrote is memory-mapped, after its checksum was compared (a second for about 1 GB); what
    `np.savez_compressed` wrote is held in memory in its own type.

    Raises:
        BadInput: no such file, not a whole `.npz`, none of the pairs, pickled objects, or what `Arrays` refuses.

    """
    x, y = read_npz(path, pairs)
    return Arrays(name or path.name, x, y)


def read_npz(path: Path, choices: Sequence[tuple[str, ...]]) -> tuple[Array, ...]:
    """The arrays of the first group of names that are all there.

    Raises:
        BadInput: no such file, not a whole `.npz`, none of the groups, pickled objects.

    """
    if not path.is_file():
        raise BadInput(f"no file '{path}'", "an .npz", "check the path")
    try:
        with zipfile.ZipFile(path) as file:
            held = {name.removesuffix(".npy"): name for name in file.namelist()}
            for names in choices:
                if held.keys() >= set(names):
                    return tuple(_member(path, file, held[name]) for name in names)
    except BadInput:
        raise
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy's reader of headers raise of many kinds
        raise BadInput(f"'{path.name}' is truncated or not an .npz ({line(error)})", "a whole .npz", DO) from error
    wanted = " or ".join(" and ".join(names) for names in choices)
    raise BadInput(f"'{path.name}' holds {', '.join(sorted(held)) or 'nothing'}", f"arrays {wanted}", DO)


def arrays(path: Path) -> set[str]:
    """The names of the arrays that an `.npz` holds."""
    with zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def _member(path: Path, file: zipfile.ZipFile, name: str) -> Array:
    """One array: mapped where it is stored as it is, else decompressed. Either way its CRC is checked."""
    entry = file.getinfo(name)
    with file.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if dtype.hasobject:
            raise BadInput(f"'{name}' in '{path.name}' is a pickle", "plain arrays", "save it with a numeric dtype")
        header_bytes = stream.tell()
        size = header_bytes + math.prod(shape) * dtype.itemsize
        if size != entry.file_size:  # a map would read on into the next member, and a short one ask for any memory
            raise ValueError(f"'{name}' has {entry.file_size} bytes, {size} by its header")
        if entry.compress_type != zipfile.ZIP_STORED or 0 in shape:
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
        while stream.read(PIECE):  # the last piece raises where the CRC is another
            pass
    with path.open("rb") as raw:
        raw.seek(entry.header_offset + 26)  # the local header repeats name and extra field, with lengths of its own
        lengths = np.frombuffer(raw.read(4), dtype="<u2")
    start = entry.header_offset + 30 + int(lengths.sum()) + header_bytes
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C")
