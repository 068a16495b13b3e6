"""The files of a model, as bytes: how they are written, and how each is checked when it is read.

:mod:`wespeaker_qm.export.folder` says what they are.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.utils.errors import RecipeError, found_at, refuse_no_file, shown
from wespeaker_qm.utils.files import is_zip
from wespeaker_qm.utils.text import parse_json

FORMAT = "wespeaker_qm model"
FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS, COHORT, CARD = "model.json", "weights.safetensors", "cohort.safetensors", "README.md"
_MOST_BYTES = 1 << 24
"""Of the description, which says how long the other files are."""
_MAX_INFLATION = 100
"""Times that a file may grow when it is unpacked; weights hardly shrink, and texts to a tenth."""
_NUMBERS = re.compile(r"\[\s+[^\[\]{}\"]+\]")
"""A list that is written in one line."""
_REMEDY = "copy the model again, or export it again (run.sh --stage 8)"

Read = Callable[[str, int], bytes | None]
"""Name of a file and the most bytes that it may have -> its content, or one byte more than that if there is more; None
where there is no such file."""


def description(content: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The bytes of ``model.json``.

    Args:
        content: its entries from ``fingerprint`` on, but ``files``.
        files: name -> content of the others.
    """
    sizes = {name: {"num_bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    head, rest = {"format": FORMAT, "version": FORMAT_VERSION}, {**content, "files": sizes}
    full = {**head, "sha256": _sha256(canonical({**head, **rest})), **rest}
    text = json.dumps(full, indent=1, allow_nan=False)
    return (_NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n").encode()


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Tensors as a safetensors file."""
    from safetensors.numpy import save

    content: bytes = save({name: np.asarray(value, order="C") for name, value in tensors.items()})
    return content


def reader(path: Path) -> Read:
    """What reads the files of a folder, or of a zip of one.

    Raises:
        RecipeError: there is neither a folder nor a zip.
    """
    if path.is_dir():
        return lambda name, most: _first_bytes(path / name, most) if (path / name).is_file() else None
    if not path.exists():
        raise RecipeError(f"{path}: no such model folder; run.sh --stage 8 makes one (exp/<corpus>/<loss>/model)")
    refuse_no_file(path)
    if not is_zip(path):
        raise RecipeError(
            f"{path}: neither a model folder nor a zip of one, or cut off; name the folder that holds {DESCRIPTION}, "
            "or copy it again"
        )
    return lambda name, most: _from_zip(path, name, most)


def _first_bytes(path: Path, most: int) -> bytes:
    with path.open("rb") as handle:
        return handle.read(min(most, path.stat().st_size) + 1)


def _from_zip(path: Path, name: str, most: int) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [entry for entry in archive.namelist() if entry == name or entry.endswith(f"/{name}")]
            outermost = min(inside, key=lambda entry: entry.count("/"), default=None)
            if outermost is None:
                return None
            entry = archive.getinfo(outermost)
            if min(entry.file_size, most) > _MAX_INFLATION * max(entry.compress_size, 100):
                raise ValueError(f"{entry.compress_size:,} bytes would become {entry.file_size:,}")
            with archive.open(outermost) as handle:
                return handle.read(min(most, entry.file_size) + 1)
    except Exception as error:  # zipfile raises whatever happens of what is damaged
        raise damaged(path, name, str(error)) from error


def read_description(path: Path, read: Read) -> dict[str, Any]:
    """The content of ``model.json`` but its head, which is checked.

    Raises:
        RecipeError: it is missing, damaged, of something else, or of a later format.
    """
    data = read(DESCRIPTION, _MOST_BYTES)
    if data is None:
        raise RecipeError(f"{path}: found no {DESCRIPTION} there, expected a model folder (run.sh --stage 8 makes one)")
    place = f"{path}/{DESCRIPTION}"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise damaged(path, DESCRIPTION, str(error)) from error
    content = parse_json(text, place, _REMEDY)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise RecipeError(f"{place}: found format {shown(found)}, expected {FORMAT!r}; name the folder of a model")
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise RecipeError(
            f"{place}: found version {shown(version)} of the format, this program reads up to {FORMAT_VERSION}; "
            "update wespeaker_qm, or export the model with this version"
        )
    stated = content.pop("sha256", None)
    rest = {name: value for name, value in content.items() if name not in ("format", "version")}
    try:
        found = _sha256(canonical({"format": FORMAT, "version": version, **rest}))
    except (ValueError, RecursionError) as error:  # NaN, which JSON has not
        raise damaged(path, DESCRIPTION, str(error)) from error
    if stated != found:
        raise damaged(path, DESCRIPTION, "its content is not that of its sha256")
    return rest


def read_files(path: Path, entries: Any, read: Read) -> dict[str, bytes]:
    """The contents of the files that the description lists, each as it says.

    Args:
        path: of the model, for messages.
        entries: ``files`` of the description.
        read: reads them.

    Raises:
        RecipeError: one is missing or damaged, or the list is.
    """
    if not isinstance(entries, dict):
        raise damaged(path, DESCRIPTION, "lists no files")
    files = {}
    for name, entry in entries.items():
        try:
            num_bytes, sha256 = int(entry["num_bytes"]), str(entry["sha256"])
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise damaged(path, DESCRIPTION, f"says nothing of the size of {name}") from error
        if Path(name).name != name:
            raise damaged(path, DESCRIPTION, f"lists {shown(name)}, expected the name of a file in the folder")
        data = read(name, num_bytes)
        if data is None:
            raise damaged(path, name, found_at(path / name) if path.is_dir() else "it is missing")
        if len(data) != num_bytes:
            size = f"more than {num_bytes:,}" if len(data) > num_bytes else f"{len(data):,}"
            raise damaged(path, name, f"found {size} bytes, expected {num_bytes:,}")
        if _sha256(data) != sha256:
            raise damaged(path, name, "its content is not what was exported (another SHA-256)")
        files[name] = data
    return files


def read_tensors(path: Path, name: str, data: bytes | None) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, all finite.

    Args:
        path: of the model, for messages.
        name: of the file, likewise.
        data: its content; None where the description does not list it.

    Raises:
        RecipeError: it is damaged, or not listed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if data is None:
        raise damaged(path, DESCRIPTION, f"lists no {name}")
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as error:
        raise damaged(path, name, str(error)) from error
    for tensor, values in tensors.items():
        if not np.isfinite(values).all():
            raise damaged(path, name, f"{tensor} has values that are NaN or infinite")
    return tensors


def damaged(path: Path, name: str, fault: str) -> RecipeError:
    """What to raise of a file that is not what was exported."""
    return RecipeError(f"{path}/{name}: {fault}: damaged, or changed since the export; {_REMEDY}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """The one text of a JSON value that digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
