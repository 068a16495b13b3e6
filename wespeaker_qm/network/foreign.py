"""What a file is that somebody names as weights and that is none: told by its first bytes, without running anything."""

import zipfile
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.utils.files import is_zip

_START_BYTES = 512
_MOST_HEADER_BYTES = 100_000_000
"""Of safetensors, by its own rules."""


class Kind(NamedTuple):
    """Of a file."""

    what: str
    """It is, with an article."""
    use: str
    """What to do with it."""


_PT = "torch.save(STATE_DICT, 'weights.pt')"
_STARTS: dict[bytes, Kind] = {
    b"version https://git-lfs": Kind("a pointer of Git LFS, not the file itself", "get that (git lfs pull)"),
    b"<": Kind("a web page", "download the file itself, not the page that shows it"),
    b"{": Kind("JSON text", "name the file of weights that it belongs to"),
    b"\x1f\x8b": Kind("an archive (gzip)", "unpack it, and name the file of weights in it"),
    b"BZh": Kind("an archive (bzip2)", "unpack it, and name the file of weights in it"),
    b"\xfd7zXZ": Kind("an archive (xz)", "unpack it, and name the file of weights in it"),
    b"7z\xbc\xaf": Kind("an archive (7z)", "unpack it, and name the file of weights in it"),
    b"\x89HDF": Kind("an HDF5 file (Keras, h5py)", f"save its arrays as tensors by name: {_PT}"),
    b"\x93NUMPY": Kind("a NumPy array", f"save tensors by name: {_PT}"),
}
_LEGACY_TAR = b"ustar"


def kind_of(path: Path) -> Kind | None:
    """What a file is that holds no weights as PyTorch and safetensors write them; None where it may."""
    with path.open("rb") as handle:
        start = handle.read(_START_BYTES)
    if not start:
        return Kind("an empty file", "copy or download it again")
    if is_zip(path) and start.startswith(b"PK"):
        return _kind_of_zip(path)
    if start[257:262] == _LEGACY_TAR:
        return Kind("an archive (tar)", "unpack it, and name the file of weights in it")
    for beginning, kind in _STARTS.items():
        if start.lstrip().startswith(beginning) and not is_safetensors(path):
            return kind
    if path.suffix == ".onnx" or (start.startswith(b"\x08") and b"pytorch" in start):
        return Kind(
            "an ONNX graph, whose weights have lost their names", "name the checkpoint that it was exported from (.pt)"
        )
    return None


def _kind_of_zip(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # what is wrong with it, whoever reads it says
        return None
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return Kind(
            "a TorchScript program",
            "save its weights: torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')",
        )
    if "data.pkl" in inside:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return Kind("NumPy arrays (npz)", f"save them as tensors by name: {_PT}")
    return Kind("a zip archive", "unpack it, and name the file of weights in it")


def is_safetensors(path: Path) -> bool:
    """Whether it begins as safetensors: the length of a header in JSON, and the header."""
    with path.open("rb") as handle:
        start = handle.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 2 <= length <= _MOST_HEADER_BYTES and path.stat().st_size >= 8 + length
