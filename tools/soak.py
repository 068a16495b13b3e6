"""Is anything lost when run.sh is killed at any moment? Called by ``tools/soak.sh``.

All stages of run.sh run on five real voices with a tiny network, trained by one process, and in every other round by
two. Each stage is killed at random moments, mostly several times over, in one of these ways:

- ``tree``: SIGKILL to every process of run.sh at once, as a power cut or a memory limit does;
- ``script``: SIGKILL to run.sh alone, whose processes have to end by themselves;
- ``one``: SIGKILL to one process below it: a subcommand, a worker of pack or of the loader, torchrun;
- ``rank``: SIGKILL to one of two training processes, which torchrun starts again (``--max_restarts``) or not;
- ``term``, ``int``, ``usr1``: a signal to run.sh, which passes it on.

Then nothing of it may be at work any more, nobody may have told of a bug, and a signal must be answered by its exit
status. The stage is run again, killed again or to its end. After a round every file is compared with that of an
undisturbed run in the same place, byte by byte but for :data:`EXCEPTIONS`, and ``wespeaker-qm verify-data`` must find
nothing. The first fault ends the program with exit status 1.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from wespeaker_qm.utils.arguments import COUNT, SEED
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.text import parse_json, read_text

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = "saytime,asterisk-prompt-es-co,asterisk-prompt-fr-armelle,gcin-voice"
SETTINGS = "num_epochs=2 num_avg=2 save_step_interval=1 log_batch_interval=1 whiten=true"
NUM_STAGES = 8
TRAINING = 3
TAG = "WESPEAKER_QM_SOAK"
"""Environment variable by which the processes of a run are found, whoever their parents are."""
SECONDS_TO_END = 200.0
"""More than run.sh gives its processes, and they their own."""
SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "usr1": signal.SIGUSR1}
KINDS = ("tree", "script", "one", "rank", *SIGNALS)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n((?: .*\n)+)(\S.*)")
CLOCK = ("samples_per_s", "wait_s", "minutes", "speed")


_TIMES = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00)?"
    r"|CRC-32 [0-9a-f]{8} of \d+ bytes"
    r"|\b[\d.]+ (min|minutes)\b|\"minutes\": [\d.e-]+"
)


def without(*names: str) -> Callable[[Path], Any]:
    """Reader of JSON without some entries, wherever they stand."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: stripped(each) for name, each in value.items() if name not in names}
        return [stripped(each) for each in value] if isinstance(value, list) else value

    return lambda path: stripped(parse_json(read_text(path), path, ""))


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a training log without what the clock says."""
    lines = read_text(path).splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def state_of(path: Path) -> str:
    """All of a training's state but times, as text."""
    state = torch.load(path, weights_only=True)
    torch.set_printoptions(profile="full", precision=20)
    return repr({name: value for name, value in state.items() if name not in ("elapsed_s", "journal")})


def masked(path: Path) -> str:
    """A text without times, and without checksums of files in which times stand."""
    return re.sub(r"[ \-]+", " ", _TIMES.sub("*", read_text(path)))


def members_of(path: Path) -> dict[str, int]:
    """Name -> CRC-32 of the files in a zip that hold no times."""
    with zipfile.ZipFile(path) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if not each.filename.endswith((".json", ".md"))}


def graph_of(path: Path) -> bytes:
    """A network in ONNX without the description of it."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


EXCEPTIONS: Mapping[str, tuple[str, Callable[[Path], Any] | None]] = {
    "log/*": ("lines with times, of every attempt", None),
    ".lock": ("who was there last", None),
    "tensorboard/*": ("times, and a file for each start", None),
    "train_log.jsonl.crc32": ("covers times", None),
    "metrics.json.crc32": ("covers times", None),
    "resume/*.crc32": ("covers times", None),
    "train_log.jsonl": ("times", log_lines),
    "resume/step_*.pt": ("times", state_of),
    "provenance.json": ("time", without("time")),
    "metrics.json": ("time, minutes of the training", without("time", "minutes")),
    "report.*": ("time, minutes of the training", masked),
    "model/README.md": ("time", masked),
    "model/model.json": ("times, and a checksum over them", without("time", "sha256")),
    "model/model.onnx": ("holds model.json", graph_of),
    "model.zip": ("holds model.json", members_of),
    "shard.index.json": ("times of the tars, and a checksum over them", without("tar_times", "sha256")),
    "shards/.done/*": ("times of the recordings", None),
    ".done/*": ("checksums of files in which times stand", masked),
}
"""Pattern of the end of a path -> why such files may differ, and what of them must still be the same."""


def exception_for(path: Path) -> tuple[str, Callable[[Path], Any] | None] | None:
    """The row of :data:`EXCEPTIONS` for a file."""
    return next((row for pattern, row in EXCEPTIONS.items() if path.match(pattern)), None)


def files(folder: Path) -> dict[str, Path]:
    """Name below ``folder`` -> file, of those that must be there again."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if (exception_for(path) or ("", len))[1] is not None}


def differences(expected: Path, found: Path) -> list[str]:
    """What two folders of an undisturbed and a disturbed run do not have in common, a line each."""
    one, other = files(expected), files(found)
    lines = [f"{name}: only in {expected if name in one else found}" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        row = exception_for(one[name])
        read = Path.read_bytes if row is None or row[1] is None else row[1]
        if read(one[name]) != read(other[name]):
            lines.append(f"{name}: another content")
    return lines


def processes(tag: str) -> dict[int, list[str]]:
    """Number -> command of the processes that are at work for a run."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                if f"{TAG}={tag}".encode() in (place / "environ").read_bytes().split(b"\0"):
                    command = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        found[int(place.name)] = command
            except OSError:  # it has just ended, or is not ours
                continue
    return found


def is_told_as_bug(said: str) -> bool:
    """Whether an output has what must never be said: that there is a bug, or a traceback through this package.

    Ctrl-C while Python imports makes one, though, and so does Python's own tracker of semaphores when it is killed.
    """
    tracebacks = _TRACEBACK.findall(said)
    ours = [last for frames, last in tracebacks if "/wespeaker_qm/" in frames]
    return "this is a bug" in said or any(last != "KeyboardInterrupt" for last in ours)


def kill(number: int, signal_number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal_number)


def ranks(found: Mapping[int, list[str]]) -> list[int]:
    """Of some processes those that torchrun has started."""
    return [
        number
        for number, command in found.items()
        if "wespeaker_qm.bin.main" in command and "wespeaker_qm.train.launch" not in command and "train" in command
    ]


class Soak:
    """The runs, in one folder, and how many kills they have survived.

    Args:
        work: the folder.
        seed: of all that is random.
        downloads: folder of the packages.
    """

    def __init__(self, work: Path, seed: int, downloads: Path) -> None:
        self.work = work.absolute()
        self.seed = seed
        self.downloads = downloads.absolute()
        self.now = self.work / "now"
        self.journal = self.work / "soak.json"
        state = parse_json(read_text(self.journal), self.journal, "") if self.journal.is_file() else {}
        self.kills: int = state.get("kills", 0)
        self.rounds: int = state.get("rounds", 0)
        self.stage: int = state.get("stage", 1)
        self.seconds: dict[str, float] = state.get("seconds", {})
        self.tally: Counter[str] = Counter(state.get("tally", {}))

    def save(self) -> None:
        """Note how far this is."""
        names = ("kills", "rounds", "stage", "seconds", "tally", "seed")
        write_text(self.journal, json.dumps({name: getattr(self, name) for name in names}, indent=1) + "\n")

    @property
    def num_ranks(self) -> int:
        """Training processes of this round."""
        return 1 + self.rounds % 2

    def start(self, stage: int, tag: str, *, max_restarts: int = 0) -> subprocess.Popen[bytes]:
        """Begin a stage; its output is added to ``output.txt``."""
        prepare = f"--packages {PACKAGES} --max_utterances_per_speaker 6 --num_rooms 3 --downloads {self.downloads}"
        options: dict[str, object] = {
            "data": self.now / "data",
            "exp_root": self.now / "exp",
            "config": "conf/resnet34.yaml tests/recipe/tiny.yaml",
            "loss": "conf/loss/qmargin_a1.5.yaml",
            "overrides": f"{SETTINGS} dataloader_args.batch_size={8 // self.num_ranks}",
            "prepare_opts": prepare,
            "num_processes": self.num_ranks,
            "num_workers": 2,
            "num_resamples": 20,
            "max_restarts": max_restarts,
            "stage": stage,
            "stop_stage": stage,
        }
        command = ["./run.sh", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        with (self.work / "output.txt").open("ab") as output:
            output.write(f"\n--- {' '.join(command)}\n".encode())
            output.flush()
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHON": sys.executable, TAG: tag},
                start_new_session=True,
                preexec_fn=heed_signals,
            )

    def finish(self, stage: int) -> None:
        """Run a stage to its end."""
        began = time.monotonic()
        process = self.start(stage, uuid.uuid4().hex)
        if process.wait() != 0:
            kills = counted(self.kills, "kill", "kills")
            self.fail(f"stage {stage}, undisturbed after {kills}, ended with {process.returncode}")
        key = f"{stage} {self.num_ranks}"
        self.seconds[key] = max(self.seconds.get(key, 0.0), time.monotonic() - began)

    def fail(self, fault: str) -> None:
        """End the program."""
        self.save()
        sys.exit(f"soak: {fault}; {self.now} is as it was found, and what was said is in {self.work / 'output.txt'}")

    def disturb(self, stage: int, attempt: int) -> bool:
        """Run a stage, and kill it; whether it was at work then."""
        rng = random.Random(f"{self.seed} {stage} {self.kills} {attempt} kind and moment")
        kinds = [kind for kind in KINDS if kind != "rank" or (stage == TRAINING and self.num_ranks > 1)]
        kind = rng.choice(kinds)
        at = rng.uniform(0, 0.9) * self.seconds[f"{stage} {self.num_ranks}"]
        tag = uuid.uuid4().hex
        said_before = (self.work / "output.txt").stat().st_size
        process = self.start(stage, tag, max_restarts=rng.choice((0, 2)) if kind == "rank" else 0)
        try:
            process.wait(at)
        except subprocess.TimeoutExpired:
            pass
        else:
            if process.returncode != 0:
                self.fail(f"stage {stage} ended by itself with {process.returncode}")
            return False
        self._strike(kind, process, tag, rng)
        give_up = time.monotonic() + SECONDS_TO_END
        while process.poll() is None or processes(tag):
            if time.monotonic() > give_up:
                self.fail(f"kill {self.kills} ({kind}, stage {stage}): still at work: {processes(tag)}")
            time.sleep(0.1)
        said = (self.work / "output.txt").read_bytes()[said_before:].decode(errors="replace")
        if is_told_as_bug(said):
            self.fail(f"kill {self.kills} ({kind}, stage {stage}): told as a bug")
        expected = {"tree": {-signal.SIGKILL}, "script": {-signal.SIGKILL}}
        if kind in SIGNALS:
            # 0: it had just done its work; minus the signal: run.sh had not begun any.
            expected[kind] = {0, 128 + SIGNALS[kind], -SIGNALS[kind]}
        if process.returncode not in expected.get(kind, {process.returncode}):
            self.fail(f"kill {self.kills} ({kind}, stage {stage}): exit status {process.returncode}")
        self.kills += 1
        self.tally[f"{kind}, stage {stage}"] += 1
        self.save()
        return True

    def _strike(self, kind: str, process: subprocess.Popen[bytes], tag: str, rng: random.Random) -> None:
        if kind in SIGNALS:
            kill(process.pid, SIGNALS[kind])
            return
        if kind == "script":
            kill(process.pid, signal.SIGKILL)
            return
        if kind == "tree":
            while found := processes(tag):  # until none has started another one meanwhile
                for number in found:
                    kill(number, signal.SIGKILL)
                process.poll()
            return
        found = {number: command for number, command in processes(tag).items() if number != process.pid}
        chosen = ranks(found) if kind == "rank" else []
        if chosen or found:
            kill(rng.choice(sorted(chosen or found)), signal.SIGKILL)

    def reference(self) -> Path:
        """What an undisturbed run leaves, made where there is none."""
        kept = self.work / f"undisturbed_{self.num_ranks}"
        if not kept.is_dir():
            shutil.rmtree(self.now, ignore_errors=True)
            for stage in range(1, NUM_STAGES + 1):
                self.finish(stage)
            self.stage = 1
            self.now.rename(kept)
            self.save()
        return kept

    def round(self, num_kills: int) -> None:
        """Disturb each stage in turn; then compare all."""
        expected = self.reference()
        while self.stage <= NUM_STAGES:
            attempts = 0
            while self.kills < num_kills and self._goes_on(attempts):
                attempts += 1
                if self.disturb(self.stage, attempts):
                    continue
                if self.stage != TRAINING:
                    break
                shutil.rmtree(self.now / "exp" / "qmargin_a1.5")  # it was over: train anew, to be killed again
            self.finish(self.stage)
            self.stage += 1
            self.save()
        self.compare(expected)
        shutil.rmtree(self.now)
        self.rounds += 1
        self.stage = 1
        self.save()
        print(
            f"soak: round {self.rounds}: {counted(self.kills, 'kill', 'kills')} survived, all files as undisturbed",
            flush=True,
        )

    def _goes_on(self, attempts: int) -> bool:
        """Whether the stage is killed once more: the training more often, of which there is most to lose."""
        rng = random.Random(f"{self.seed} {self.stage} {self.kills} {attempts}")
        return rng.random() < (0.97 if self.stage == TRAINING else 0.85)

    def compare(self, expected: Path) -> None:
        """End the program where something is different."""
        lines = differences(expected, self.now)
        if lines:
            differing = counted(len(lines), "file differs", "files differ")
            kills = counted(self.kills, "kill", "kills")
            self.fail(f"after {kills} {differing} from {expected}:\n" + "\n".join(lines[:20]))
        folders = [str(self.now / "data"), str(self.now / "exp")]
        command = [sys.executable, "-m", "wespeaker_qm.bin.main", "verify-data", *folders]
        verified = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if verified.returncode != 0:
            self.fail(
                f"after {counted(self.kills, 'kill', 'kills')} verify-data says:\n{verified.stdout}{verified.stderr}"
            )


def heed_signals() -> None:
    """In the background of a script Ctrl-C is ignored, which is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Kill, and compare."""
    parser = argparse.ArgumentParser(prog="tools/soak.sh", description="run.sh, killed at random moments")
    parser.add_argument("kills", type=COUNT, nargs="?", default=200, help="how often (default: 200)")
    parser.add_argument(
        "--work", type=Path, default=Path("soak"), metavar="DIR", help="where all is kept (default: soak)"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the moments and kinds (default: 0)")
    parser.add_argument("--downloads", type=Path, default=Path("downloads/mini"), metavar="DIR", help="of egs/mini")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "output.txt").touch()
    soak = Soak(args.work, args.seed, args.downloads)
    began = time.monotonic()
    while soak.kills < args.kills or soak.stage > 1:
        soak.round(args.kills)
    for name, number in sorted(soak.tally.items()):
        print(f"  {number:4d} {name}")
    minutes = (time.monotonic() - began) / 60
    print(
        f"soak: {counted(soak.kills, 'kill', 'kills')} in {counted(soak.rounds, 'round', 'rounds')} survived; in this "
        f"call {minutes:.0f} min"
    )


if __name__ == "__main__":
    main()
