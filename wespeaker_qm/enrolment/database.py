"""The file of enrolled speakers: SQLite, which several programs may read and write at once.

::

    store      one row: the model whose embeddings these are, its scoring, and a token that each change renews
    speaker    name
    utterance  a recording of a speaker: its embedding (D,) float32, raw; its file, seconds, and when it came
    voice      what follows from a speaker's recordings: a direction (D,) float32, and how it scores with the cohort

Voiceprints are biometric data: the file can be read by its owner alone (mode 0600, also the two that SQLite keeps
beside it while it is in use), and what is deleted is overwritten with zeros, in the log of changes, too.

A connection lasts for one transaction. So there is nothing that threads or forked processes could share, no program
keeps others waiting while it does something else, and the file is whole by itself when nobody is at it. A process that
is killed has either done its transaction or not.
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError, found_at, shown

APPLICATION_ID = 0x57514D53
"""``WQMS``, by which ``file`` and this program know such a store."""
SCHEMA_VERSION = 1
BUSY_S = 30.0
"""How long to wait for other writers, whose transactions take milliseconds."""
_PAGE_BYTES = 8192
"""Seven voices of 256 values a page: reading 100,000 of them takes three quarters of the time that 4,096 bytes take."""
_SCHEMA = """
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token BLOB NOT NULL,
    fingerprint TEXT,
    model TEXT,
    scoring TEXT
);
INSERT INTO store (id, token) VALUES (1, randomblob(16));
CREATE TABLE speaker (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE CHECK (name <> '')
);
CREATE TABLE utterance (
    id INTEGER PRIMARY KEY,
    speaker INTEGER NOT NULL REFERENCES speaker ON DELETE CASCADE,
    file TEXT NOT NULL,
    duration_s REAL NOT NULL CHECK (duration_s > 0),
    enrolled TEXT NOT NULL,
    embedding BLOB NOT NULL CHECK (typeof(embedding) = 'blob')
);
CREATE INDEX utterance_of_speaker ON utterance (speaker);
CREATE TABLE voice (
    speaker INTEGER PRIMARY KEY REFERENCES speaker ON DELETE CASCADE,
    unit BLOB NOT NULL CHECK (typeof(unit) = 'blob'),
    length REAL NOT NULL,
    cohort_mean REAL NOT NULL,
    cohort_deviation REAL NOT NULL CHECK (cohort_deviation > 0),
    duration_s REAL NOT NULL
);
"""
BACKUP = "put back a copy of it, or rescue what is left with `sqlite3 FILE .recover`"
"""What to do with a damaged store."""
_ONE_ROW = """
SELECT 1 FROM store WHERE id = 1 AND typeof(token) = 'blob'
AND typeof(fingerprint) IN ('text', 'null') AND typeof(model) IN ('text', 'null')
AND typeof(scoring) IN ('text', 'null')
"""
_LIST_TABLES = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_RIGHT = "give yourself the right to read and write this file and its folder (chmod, chown), or name another place"
_REMEDIES = {
    sqlite3.SQLITE_OK: BACKUP,  # what Python finds: a text that is not UTF-8
    sqlite3.SQLITE_ERROR: BACKUP,
    sqlite3.SQLITE_BUSY: f"another program has kept it for more than {BUSY_S:g} s: end that, or try again",
    sqlite3.SQLITE_CANTOPEN: _RIGHT,
    sqlite3.SQLITE_CORRUPT: BACKUP,
    sqlite3.SQLITE_FULL: "free some space; nothing of this command was stored",
    sqlite3.SQLITE_IOERR: "look after the disk, and keep the store on one of this machine; nothing was stored",
    sqlite3.SQLITE_NOTADB: "name the file of a store, or a new one; if it was one: " + BACKUP,
    sqlite3.SQLITE_PERM: _RIGHT,
    sqlite3.SQLITE_READONLY: _RIGHT,
}
"""By SQLite's primary result code; any other error is a bug."""


@functools.cache
def _tables() -> frozenset[tuple[str, ...]]:
    """What a store says of its own tables and indices."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return frozenset(connection.execute(_LIST_TABLES))


class NoStoreError(RecipeError):
    """There is no store yet, or only the empty file that somebody left who was killed while making one."""


class Database:
    """The file of a store, and its transactions.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the store, whatever others write meanwhile.

        Raises:
            NoStoreError: there is none.
            RecipeError: the file is none of a store, of a later version, damaged, or cannot be read.
        """
        if not self.path.exists():
            raise self._no_store()
        with self._connection() as connection:
            connection.execute("BEGIN")
            if _is_empty(connection):
                raise self._no_store()
            self._check(connection)
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are all made, and on the disk, when the block ends; after an error, none is.

        The store is made where there is none. Writers come one after the other.

        Raises:
            RecipeError: the file is none of a store, of a later version, damaged, or cannot be written, or another
                program writes for longer than :data:`BUSY_S`.
        """
        self._create()
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._check(connection)
                yield connection
                connection.execute("UPDATE store SET token = randomblob(16)")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def erase_traces(self) -> bool:
        """Empty the log of changes, which still holds what was deleted.

        Returns:
            False where somebody reads the store for so long that it could not be done; the next such call does it.
        """
        with self._connection() as connection:
            (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy

    def _create(self) -> None:
        """Make the store where there is none; of several programs at once, the first does it."""
        if not self.path.exists():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise RecipeError(
                    f"{self.path}: cannot make this store ({error.strerror}); name another place"
                ) from error
        with self._connection() as connection:
            if not _is_empty(connection):
                return
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if _is_empty(connection):
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in which statements outside of BEGIN and COMMIT stand for themselves."""
        if self.path.exists() and not self.path.is_file():
            raise RecipeError(f"{self.path}: {found_at(self.path)}, or name another place for the store")
        # The URI keeps SQLite from making a file that is not there.
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        try:
            with contextlib.closing(
                sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
            ) as connection:
                # A store that somebody else has made runs nothing of its own, and its pages are looked at first.
                for setting in (
                    "foreign_keys = ON", "secure_delete = ON", "synchronous = FULL",
                    "trusted_schema = OFF", "cell_size_check = ON",
                ):  # fmt: skip
                    connection.execute(f"PRAGMA {setting}")
                yield connection
        except UnicodeDecodeError as error:  # what SQLite says of a damaged file quotes it
            raise RecipeError(f"{self.path}: damaged; {BACKUP}") from error
        except sqlite3.Error as error:
            remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            if remedy is None or isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
                raise
            raise RecipeError(f"{self.path}: {error}; {remedy}") from error

    def _no_store(self) -> NoStoreError:
        return NoStoreError(f"{self.path}: no such store of speakers; enrol somebody first (`wespeaker-qm enrol`)")

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse what is no store, or one of a later version."""
        found = _number(connection, "application_id")
        if found != APPLICATION_ID:
            raise RecipeError(
                f"{self.path}: an SQLite database of something else (application_id {found}, expected "
                f"{APPLICATION_ID}); nothing was written: name the file of a store, or a new one"
            )
        version = _number(connection, "user_version")
        if version != SCHEMA_VERSION:
            raise RecipeError(
                f"{self.path}: found version {version} of a store, this program knows {SCHEMA_VERSION}; update "
                "wespeaker_qm"
            )
        tables = set(connection.execute(_LIST_TABLES))
        if lacking := _tables() - tables:
            raise RecipeError(f"{self.path}: its {' '.join(min(lacking)[:2])} is not that of a store; {BACKUP}")
        if alive := [f"{kind} {shown(name)}" for kind, name, *_ in sorted(tables) if kind in ("trigger", "view")]:
            raise RecipeError(
                f"{self.path}: holds the {', '.join(alive)}, expected tables alone: a store runs nothing; {BACKUP}"
            )
        if connection.execute(_ONE_ROW).fetchone() is None:
            raise RecipeError(f"{self.path}: does not say of which model it is; {BACKUP}")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file holds nothing, not even a mark of whose it is: a new one, or one whose maker was killed."""
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return count == 0 and _number(connection, "application_id") == 0 and _number(connection, "user_version") == 0
