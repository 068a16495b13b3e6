"""Kaldi data directories: ``wav.scp``, ``utt2spk``, ``spk2utt``, ``utt2dur`` and optional tables beside them.

Of the other files that Kaldi knows, ``segments`` is applied, and those that would change what is trained on are
refused: a choice of channels (``reco2file_and_channel``), warped frequencies (``spk2warp``, ``utt2warp``), speakers
that ``spk2utt`` and ``utt2spk`` give differently, durations that are not those of ``segments``. What is made from the
audio (``feats.scp``, ``cmvn.scp``, ``vad.scp``, ``utt2num_frames``, ``reco2dur``) or says something else of it
(``text``, ``utt2lang``) is left alone.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from wespeaker_qm.corpus.segments import read_segments, segment_duration_s
from wespeaker_qm.utils.errors import RecipeError, counted, shown
from wespeaker_qm.utils.remedies import mended
from wespeaker_qm.utils.tables import read_map, read_numbers, read_rows, refuse_commands, write_rows
from wespeaker_qm.utils.text import fields_of, is_field

DURATION_TOLERANCE_S = 0.05
"""By which a duration in ``utt2dur`` may differ from that of the audio: programs count samples, frames or packets."""
_LINE_BREAK = re.compile(r"[\n\v\f\r\x1c-\x1e\x85]")
"""Control characters that some program takes for the end of a line."""


@dataclass(kw_only=True)
class DataDir:
    """Utterances of one set.

    For noise, ``speaker`` holds the category (noise, music, speech); for impulse responses the room.
    """

    wav: dict[str, str]
    """Key -> path of the audio file (``wav.scp``), relative to the current directory or absolute; or a locator of a
    recording in an archive, or of a segment (:mod:`wespeaker_qm.corpus.segments`)."""
    speaker: dict[str, str]
    """Key -> speaker (``utt2spk``)."""
    duration_s: dict[str, float] = field(default_factory=dict)
    """Key -> length in seconds (``utt2dur``); empty where nothing has been decoded yet."""
    gender: dict[str, str] = field(default_factory=dict)
    """Speaker -> ``m``, ``f`` or another letter (``spk2gender``); empty where it is not known."""
    session: dict[str, str] = field(default_factory=dict)
    """Key -> recording session (``utt2session``); empty where it is not known."""

    @classmethod
    def read(cls, path: Path | str) -> "DataDir":
        """Read and validate the directory ``path``; ``utt2dur``, ``spk2gender`` and ``utt2session`` are optional.

        Raises:
            RecipeError: a table is missing or malformed, ``wav.scp`` has commands, or the tables do not agree.
        """
        path = Path(path)
        if not (path / "wav.scp").is_file() and (path / "feats.scp").is_file():
            raise RecipeError(
                f"{path}: has feats.scp but no wav.scp, expected audio: features of another filter bank cannot be "
                "trained on; add wav.scp"
            )

        def optional(name: str) -> dict[str, str]:
            return read_map(path / name) if os.path.lexists(path / name) else {}

        wav = read_map(path / "wav.scp")
        refuse_commands(path / "wav.scp", wav)
        table = "wav.scp"
        if os.path.lexists(path / "segments"):
            table, wav = "segments", read_segments(path / "segments", wav)
        directory = cls(
            wav=wav,
            speaker=read_map(path / "utt2spk"),
            duration_s=read_numbers(path / "utt2dur", "seconds") if os.path.lexists(path / "utt2dur") else {},
            gender=optional("spk2gender"),
            session=optional("utt2session"),
        )
        directory.validate(str(path), table)
        _refuse_unapplied(path, directory)
        return directory

    def validate(self, name: str = "data directory", source: str = "wav.scp") -> None:
        """Check that the tables speak of the same keys.

        Raises:
            RecipeError: no utterance, keys that stand in one table only, a duration that is not positive, a key
                with white space, a path with line breaks or white space at its ends; the message counts them and
                names the first.
        """
        if not self.wav:
            raise RecipeError(f"{name}/{source}: no utterances, expected at least one; {_again(name, source)}")
        self._check_same(name, source, set(self.wav), "utt2spk", set(self.speaker))
        for table, values in (("utt2dur", self.duration_s), ("utt2session", self.session)):
            if values:
                self._check_same(name, source, set(self.wav), table, set(values))
        if self.gender:
            self._check_same(name, "utt2spk", set(self.speaker.values()), "spk2gender", set(self.gender))
        for key, duration_s in self.duration_s.items():
            if not duration_s > 0:
                raise RecipeError(f"{name}/utt2dur: {shown(key)} lasts {duration_s} s, expected more than 0")
        for key, place in self.wav.items():
            if not place or place != place.strip() or _LINE_BREAK.search(place):
                raise RecipeError(
                    f"{name}/wav.scp: {shown(key)} is the file {place!r}; a list has one file a line, without white "
                    "space at its ends: rename the file"
                )
        for key in (*self.wav, *set(self.speaker.values())):
            if not is_field(key) or {"", ".", ".."}.intersection(key.split("/")):
                raise RecipeError(
                    f"{name}: key {shown(key)} is empty, has white space or is no relative path such as "
                    "id10270/5r0dWxy17C8/00001; rename it"
                )

    def write(self, path: Path | str) -> None:
        """Write all tables, sorted by key (in C locale order, as Kaldi asks)."""
        path = Path(path)
        self.validate(str(path))
        utterances: dict[str, list[str]] = {}
        for key in sorted(self.speaker):
            utterances.setdefault(self.speaker[key], []).append(key)
        write_rows(path / "wav.scp", sorted(self.wav.items()))
        write_rows(path / "utt2spk", sorted(self.speaker.items()))
        write_rows(path / "spk2utt", sorted((speaker, *keys) for speaker, keys in utterances.items()))
        if self.duration_s:
            write_rows(path / "utt2dur", [(key, f"{value:.6g}") for key, value in sorted(self.duration_s.items())])
        if self.gender:
            write_rows(path / "spk2gender", sorted(self.gender.items()))
        if self.session:
            write_rows(path / "utt2session", sorted(self.session.items()))

    @staticmethod
    def tables(path: Path) -> list[Path]:
        """The files that :meth:`write` may write to ``path``."""
        names = ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "spk2gender", "utt2session")
        return [path / name for name in names]

    @property
    def speakers(self) -> list[str]:
        """The speakers, sorted."""
        return sorted(set(self.speaker.values()))

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.wav)

    @staticmethod
    def _check_same(name: str, left: str, left_keys: set[str], right: str, right_keys: set[str]) -> None:
        difference = sorted(left_keys ^ right_keys)
        if difference:
            only, lacking = (left, right) if difference[0] in left_keys else (right, left)
            raise RecipeError(
                f"{name}/{left} and {name}/{right} differ in {counted(len(difference), 'key', 'keys')}, e.g. "
                f"{shown(difference[0])} stands only in {only}; both must list the same keys: correct {lacking}, or "
                f"{_again(name, left)}"
            )


def _again(name: str, table: str) -> str:
    """How the tables of a set are made again: stage 1 is skipped where it finds them, and makes no segments."""
    if table == "segments":
        return "remove segments, to take whole recordings"
    return f"of {name}/{table}, {mended(f'{name}/{table}')}"


def _refuse_unapplied(path: Path, data: DataDir) -> None:
    """Refuse tables beside ``wav.scp`` that say something else of the audio than what is read.

    Raises:
        RecipeError: there is one; it is named.
    """
    for name in ("spk2warp", "utt2warp"):
        if os.path.lexists(path / name):
            raise RecipeError(
                f"{path / name}: warped frequencies (VTLN) are not applied, expected no such file; remove it to train "
                "on the audio as it is"
            )
    for key, duration_s in data.duration_s.items():
        expected_s = segment_duration_s(data.wav[key])
        if expected_s is not None and abs(duration_s - expected_s) > DURATION_TOLERANCE_S:
            raise RecipeError(
                f"{path / 'utt2dur'}: {shown(key)} lasts {duration_s:g} s, but {expected_s:g} s in segments; correct "
                "one, or remove utt2dur"
            )
    if os.path.lexists(path / "reco2file_and_channel"):
        files = set()
        for recording, file, channel in read_rows(path / "reco2file_and_channel", 3):
            if channel not in ("A", "1") or file in files:
                raise RecipeError(
                    f"{path / 'reco2file_and_channel'}: {shown(recording)} is channel {channel} of {file}, but all "
                    "channels of a file are averaged; write each channel into a file of its own, and remove this table"
                )
            files.add(file)
    if os.path.lexists(path / "spk2utt"):
        for name, keys in read_rows(path / "spk2utt", 2):
            for key in fields_of(keys):
                if data.speaker.get(key, name) != name:
                    raise RecipeError(
                        f"{path / 'spk2utt'}: {shown(key)} is of {shown(name)}, but of {shown(data.speaker[key])} in "
                        "utt2spk; correct one, or remove spk2utt"
                    )
