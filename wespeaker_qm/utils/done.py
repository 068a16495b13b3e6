"""Done markers: a stage whose inputs have not changed is not run again, and says what has changed when it is.

A marker is a small JSON file: the version of the stage's code, a digest of each input by name, and the outputs. Inputs
are known by their content (:func:`file_digest`): neither a copy that keeps its times nor another path deceives it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wespeaker_qm.utils.checksums import checksum_of
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.text import json_or_none

ABSENT = "absent"
_DIGEST = re.compile(r"[0-9a-f]{64}|CRC-32 .*")
_FIRST_VERSION = "0.1.0"
"""Of this package, in the keys of the markers that had one key for all inputs."""


def file_stamp(path: Path | str) -> str:
    """Name, size and modification time of a file, or ``absent``: cheap enough for a million audio files.

    A file that was exchanged for another of the same size and time is not noticed: for what is too large to read.
    """
    path = Path(path)
    if not path.is_file():
        return f"{path} {ABSENT}"
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def content_stamp(path: Path | str) -> str:
    """Name and SHA-256 of a small file's content, or ``absent``."""
    path = Path(path)
    if not path.is_file():
        return f"{path} {ABSENT}"
    return f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def file_digest(path: Path | str) -> str:
    """CRC-32 and size of a file's content, whatever its name and time, or ``absent``."""
    return str(checksum_of(path)) if Path(path).is_file() else ABSENT


def value_digest(value: object) -> str:
    """SHA-256, in hexadecimal, of any value that JSON can hold; paths and the like count by their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which named inputs differ, in words; digests, which tell nobody anything, are not shown.

    >>> differences({"top_n": 300, "scores": "absent"}, {"top_n": 5})
    ['scores: was absent, now not asked for', 'top_n: was 300, now 5']
    """
    lines = []
    for name in sorted(before.keys() | now.keys()):
        one, two = before.get(name, "not asked for"), now.get(name, "not asked for")
        if one != two:
            both_digests = all(_DIGEST.fullmatch(str(value)) for value in (one, two))
            lines.append(f"{name}: {'changed' if both_digests else f'was {_shown(one)}, now {_shown(two)}'}")
    return lines


def _shown(value: object) -> str:
    return "there" if _DIGEST.fullmatch(str(value)) else str(value)


class DoneMarker:
    """Says: this stage finished, with these inputs, and made these outputs.

    Args:
        path: the marker, e.g. ``exp/mini/x/.done/score``.
        inputs: what the result depends on, by name: option values and digests of files. Anything but a mapping counts
            as one input.
        outputs: files that must exist for the stage to count as done.
        version: of the stage's code; raised when its results change for the same inputs.
        checks_outputs: whether outputs that are no longer what the stage wrote count as gone. They are read for it.
    """

    def __init__(
        self,
        path: Path | str,
        inputs: object,
        outputs: Iterable[Path | str],
        *,
        version: int = 1,
        checks_outputs: bool = False,
    ) -> None:
        self.path = Path(path)
        self.outputs = [Path(output) for output in outputs]
        self.checks_outputs = checks_outputs
        named = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
        self.inputs = {"code": version} | {
            str(name): value if isinstance(value, str | int | float | None) else value_digest(value)
            for name, value in named.items()
        }
        self._old_key = value_digest([_FIRST_VERSION, inputs])

    def is_current(self) -> bool:
        """Whether the stage was done with the same inputs and its outputs are still there."""
        return not self.changes()

    def changes(self) -> list[str]:
        """Why the stage must run, in words: inputs that differ, outputs that are gone; nothing when it is done."""
        recorded = _read(self.path)
        if isinstance(recorded.get("inputs"), dict):
            lines = differences(recorded["inputs"], self.inputs)
        elif recorded.get("key") == self._old_key and self.inputs["code"] == 1:
            lines = []
        else:
            lines = [f"{self.path}: no record of its inputs (an interrupted run, or one of an earlier version)"]
        return lines + self.lost_outputs()

    def lost_outputs(self) -> list[str]:
        """Outputs that are missing, or (with ``checks_outputs``) are not what a finished stage left there, in words."""
        lines = [f"{output}: missing" for output in self.outputs if not output.exists()]
        if self.checks_outputs and not lines:
            written = recorded_outputs(self.path)
            for output in self.outputs:
                if output.name in written and written[output.name] != file_digest(output):
                    lines.append(f"{output}: not what the stage wrote")
        return lines

    def clear(self) -> None:
        """Remove the marker, before outputs are overwritten."""
        self.path.unlink(missing_ok=True)

    def write(self) -> None:
        """Write the marker: the last act of a stage."""
        outputs = {output.name: file_digest(output) for output in self.outputs} if self.checks_outputs else {}
        write_text(self.path, json.dumps({"inputs": self.inputs, "outputs": outputs}, indent=1) + "\n")


def discard(path: Path | str, outputs: Iterable[Path], remove: Callable[[Path], None] = Path.unlink) -> None:
    """Remove a marker, and with ``remove`` those of ``outputs`` that its stage wrote and nobody has changed since."""
    path = Path(path)
    written = recorded_outputs(path)
    for output in outputs:
        if output.is_file() and written.get(output.name) == file_digest(output):
            remove(output)
    path.unlink(missing_ok=True)


def recorded_inputs(path: Path | str) -> dict[str, Any] | None:
    """What a marker says of its stage's inputs, by name; None where there is no marker, or an older one."""
    recorded = _read(Path(path)).get("inputs")
    return recorded if isinstance(recorded, dict) else None


def recorded_outputs(path: Path | str) -> dict[str, str]:
    """Digests of what a stage wrote, by the names of the files, as its marker has them; empty where there are none."""
    written = _read(Path(path)).get("outputs")
    return written if isinstance(written, dict) else {}


def refuse_no_marker(path: Path, remedy: str) -> None:
    """Refuse a file in the place of a marker that no stage wrote, such as an empty one.

    A stage that meets one runs again: that is all it tells. Here it is told that the record of its files is lost.

    Args:
        path: of the file.
        remedy: what to do, for the message.

    Raises:
        RecipeError: it is none.
    """
    recorded = _read(path)
    is_current = isinstance(recorded.get("inputs"), dict) and isinstance(recorded.get("outputs"), dict)
    if not is_current and not isinstance(recorded.get("key"), str):  # which an earlier version wrote
        found = "an empty file" if not path.stat().st_size else "another content"
        raise RecipeError(
            f"{path}: found {found}, expected the record of a stage's inputs and outputs: damaged; {remedy}"
        )


def _read(path: Path) -> dict[str, Any]:
    """The content of a marker; nothing where there is none that can be read."""
    recorded = json_or_none(path)
    return recorded if isinstance(recorded, dict) else {}
