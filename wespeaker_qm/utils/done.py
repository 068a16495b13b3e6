"""Done markers: a stage whose inputs have not changed is not run again."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from wespeaker_qm import __version__
from wespeaker_qm.utils.files import write_text


def file_stamp(path: Path | str) -> str:
    """Name, size and modification time of a file, or ``absent``: cheap enough for a million audio files."""
    path = Path(path)
    if not path.is_file():
        return f"{path} absent"
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def content_stamp(path: Path | str) -> str:
    """Name and SHA-256 of a small file's content, or ``absent``."""
    path = Path(path)
    if not path.is_file():
        return f"{path} absent"
    return f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}"


class DoneMarker:
    """A small JSON file that says: this stage finished, with these inputs, and made these outputs.

    Args:
        path: the marker, e.g. ``exp/mini/x/.done/score``.
        inputs: what the result depends on: option values (any JSON-able object) and file stamps.
        outputs: files that must exist for the stage to count as done.
    """

    def __init__(self, path: Path | str, inputs: object, outputs: Iterable[Path | str]) -> None:
        self.path = Path(path)
        self.outputs = [Path(output) for output in outputs]
        text = json.dumps([__version__, inputs], sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()

    def is_current(self) -> bool:
        """Whether the stage was done with the same inputs and its outputs are still there."""
        if not self.path.is_file():
            return False
        try:
            recorded = json.loads(self.path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return False
        return recorded.get("key") == self.key and all(output.exists() for output in self.outputs)

    def clear(self) -> None:
        """Remove the marker, before outputs are overwritten."""
        self.path.unlink(missing_ok=True)

    def write(self) -> None:
        """Write the marker: the last act of a stage."""
        write_text(self.path, json.dumps({"key": self.key, "outputs": [str(output) for output in self.outputs]}) + "\n")
