#!/usr/bin/env python3
"""Does `kill -9` at any moment leave half a speaker in the store of enrolled speakers?

    tools/kill_enrolment.py [--kills 1000] [--seed 0]

A process enrols speakers, adds recordings, replaces and forgets them, as fast as it can, and is killed at a random
moment of one of its first changes; then another goes on with what it left. Every tenth begins with no store at all.
What each does it says through a pipe, before and after. After each kill the store must hold exactly what was done, the
one change that had begun and not ended either whole or not at all: names, recordings bit by bit, a voice of each
speaker that is the mean of its recordings' directions, and nothing that SQLite's own checks complain of. The first
difference ends the program with exit status 1. Embeddings are random numbers; no audio is needed.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wespeaker_qm.bench.enrolment import random_embedding, random_model
from wespeaker_qm.enrolment.records import Voice
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.arguments import COUNT, SEED
from wespeaker_qm.utils.errors import counted

MOST_CHANGES = 3
FRESH_EVERY = 10

State = dict[str, list[int]]
"""Speaker -> the numbers of its recordings, in the order in which they came."""


def changes(state: State, first: int, seed: str) -> Iterator[tuple[str, str, list[int]]]:
    """What a process does, for ever: the kind of change, a name, and recordings whose numbers begin with ``first``."""
    rng = random.Random(seed)
    known = sorted(state)
    while True:
        kind = rng.choices(("new", "add", "replace", "forget"), (6, 2, 1, 1))[0] if known else "new"
        name = f"speaker {first}" if kind == "new" else rng.choice(known)
        numbers = [] if kind == "forget" else list(range(first, first + rng.randint(1, 4)))
        first += 4
        yield kind, name, numbers
        if kind == "new":
            known.append(name)
        elif kind == "forget":
            known.remove(name)


def applied(state: State, kind: str, name: str, numbers: list[int]) -> State:
    """The state after a change."""
    after = {speaker: list(theirs) for speaker, theirs in state.items()}
    if kind == "forget":
        del after[name]
    else:
        after[name] = numbers if kind in ("new", "replace") else after[name] + numbers
    return after


def work(path: Path, model: Speaker, state: State, first: int, seed: str, pipe: int) -> None:
    """Change the store until killed."""
    store = SpeakerStore(path)
    for change in changes(state, first, seed):
        kind, name, numbers = change
        os.write(pipe, f"{json.dumps(change)}\n".encode())
        if kind == "forget":
            store.forget(name)
        else:
            voices = [Voice(f"{number}.wav", 1.0, random_embedding(number)) for number in numbers]
            store.enrol_voices(name, voices, model, replace=kind == "replace")
        os.write(pipe, b"done\n")


def kill_one(
    path: Path, model: Speaker, state: State, first: int, seed: str, change_s: float
) -> tuple[list[str], float]:
    """Start a process and kill it.

    Args:
        path: of the store, and ...
        model: of the store.
        state: what it holds.
        first: number of the process's first recording.
        seed: of what it does, and when it is killed.
        change_s: how long a change takes, as far as is known.

    Returns:
        What it said, a line a message, and how long its last change took.
    """
    rng = random.Random(f"when {seed}")
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reads)
            work(path, model, state, first, seed, writes)
        finally:
            os._exit(1)
    os.close(writes)
    said: list[str] = []
    with os.fdopen(reads) as pipe:
        for _ in range(rng.randint(0, MOST_CHANGES)):
            said.append(pipe.readline().strip())
            start = time.perf_counter()
            said.append(pipe.readline().strip())
            change_s = time.perf_counter() - start
        said.append(pipe.readline().strip())
        time.sleep(rng.uniform(0, 1.2 * change_s))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        said += pipe.read().splitlines()
    if not os.WIFSIGNALED(status):
        sys.exit(f"the process ended by itself with {status} after {said[-1:]}")
    return said, change_s


def found(path: Path, model: Speaker) -> State:
    """What the store holds; ends the program if that is not whole."""
    if not path.exists():
        return {}
    store = SpeakerStore(path)
    speakers = store.speakers()
    state = {each.name: [int(utterance.file[:-4]) for utterance in each.utterances] for each in speakers}
    connection = sqlite3.connect(path)
    try:
        faults = connection.execute("PRAGMA integrity_check").fetchall()
        faults += connection.execute("PRAGMA foreign_key_check").fetchall()
        if faults != [("ok",)]:
            sys.exit(f"SQLite complains: {faults}")
        if not speakers:
            return state
        rows = connection.execute(
            "SELECT name, unit, group_concat(file), count(embedding) FROM speaker "
            "LEFT JOIN voice ON voice.speaker = speaker.id LEFT JOIN utterance ON utterance.speaker = speaker.id "
            "GROUP BY speaker.id"
        ).fetchall()
        blobs = dict(connection.execute("SELECT file, embedding FROM utterance"))
    finally:
        connection.close()
    for name, unit, _, count in rows:
        if unit is None or count == 0:
            sys.exit(
                f"half a speaker: {name} has {counted(count, 'recording', 'recordings')}, voice {unit is not None}"
            )
        directions = [random_embedding(number).astype(float) - model.info.mean for number in state[name]]
        mean = np.mean([direction / np.linalg.norm(direction) for direction in directions], axis=0)
        if not np.allclose(np.frombuffer(unit, "<f4"), mean / np.linalg.norm(mean), atol=1e-6):
            sys.exit(f"half a speaker: the voice of {name} is not that of its recordings {state[name]}")
    for numbers in state.values():
        for number in numbers:
            if blobs[f"{number}.wav"] != random_embedding(number).tobytes():
                sys.exit(f"recording {number} has other bits")
    return state


def main() -> None:
    """Kill, look, repeat."""
    parser = argparse.ArgumentParser(description="kill -9 while speakers are enrolled: is one ever there by half?")
    parser.add_argument("--kills", type=COUNT, default=1000, metavar="N", help="how often (default: 1000)")
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the changes and times (default: 0)")
    args = parser.parse_args()
    model = random_model(num_cohort_speakers=400)
    num_done = num_begun = num_kept = 0
    change_s = 0.1
    with tempfile.TemporaryDirectory() as folder:
        state: State = {}
        for kill in range(args.kills):
            if kill % FRESH_EVERY == 0:
                state = {}
            path = Path(folder) / f"{kill // FRESH_EVERY}.sqlite"
            said, change_s = kill_one(path, model, state, 1 + 1000 * kill, f"{args.seed} {kill}", change_s)
            pending = None
            for line in said:
                if line == "done" and pending is not None:
                    state, pending = applied(state, *pending), None
                    num_done += 1
                else:
                    pending = json.loads(line)
            now = found(path, model)
            if now != state:
                if pending is None or now != applied(state, *pending):
                    sys.exit(f"kill {kill}: found {now}, expected {state}, or that and {pending}")
                num_kept += 1
                state = now
            num_begun += pending is not None
    print(
        f"{counted(args.kills, 'kill', 'kills')}: {counted(num_done, 'change', 'changes')} done, all there; "
        f"{num_begun:,} more begun, of which {num_kept:,} "
        "were done and the others not at all; no half speaker"
    )


if __name__ == "__main__":
    main()
