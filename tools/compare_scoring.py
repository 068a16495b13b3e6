#!/usr/bin/env python3
"""Time scoring, normalisation and metrics beside WeSpeaker's own, on a made-up set of VoxCeleb1-H's size.

    tools/compare_scoring.py --wespeaker SNAPSHOT --python ENV/bin/python [--work DIR] [--rounds 3]
    tools/compare_scoring.py --num_trials 10000000 [--work DIR]          # ours alone: memory

SNAPSHOT is a checkout of WeSpeaker, ENV an environment outside the project that can run its score.py, score_norm.py,
compute_metrics.py and compute_det.py. 137,000 embeddings of 256 values, 550,894 trials, 5,994 cohort speakers; whole
commands from files to files, one thread, A and B in turn. WeSpeaker's scoring loop is timed on two slices of the trials
and extrapolated. Shown: medians over the rounds.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.ownership import take_folder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.provenance import both_sides
from wespeaker_qm.utils.vectors import write_vectors

NUM_UTTERANCES, NUM_SPEAKERS, DIM, NUM_COHORT = 137_000, 1_190, 256, 5_994
SLICES = (2_000, 6_000)


class Cost(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def run(command: list[str], folder: Path, environment: dict[str, str]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    with (folder / "output.log").open("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{output.read()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def make_set(work: Path, num_trials: int) -> None:
    """Write a corpus with one trial list, and the embeddings of a run on it."""
    rng = np.random.default_rng(0)
    speaker = np.sort(rng.integers(NUM_SPEAKERS, size=NUM_UTTERANCES))
    names = [f"id1{speaker[row]:04d}/{rng.integers(1 << 40):011x}/{row % 100:05d}.wav" for row in range(NUM_UTTERANCES)]
    vectors = rng.standard_normal((NUM_SPEAKERS, DIM), np.float32)[speaker]
    vectors += 1.6 * rng.standard_normal(vectors.shape, np.float32)
    embeddings = work / "exp" / "embeddings"
    write_vectors(embeddings / "eval", "xvector", names, vectors)
    cohort = rng.standard_normal((NUM_COHORT, DIM), np.float32)
    cohort_names = [f"c{number:04d}" for number in range(NUM_COHORT)]
    write_vectors(embeddings / "train", "xvector", cohort_names, cohort)
    np.save(embeddings / "mean_vec.npy", np.full(DIM, 0.01, np.float32))

    bounds = np.searchsorted(speaker, np.arange(NUM_SPEAKERS + 1))
    one = rng.integers(NUM_UTTERANCES, size=2 * num_trials)
    same = rng.random(len(one)) < 0.5
    width = (bounds[1:] - bounds[:-1])[speaker[one]]
    other = np.where(same, bounds[speaker[one]] + rng.integers(1 << 40, size=len(one)) % width, 0)
    other = np.where(same, other, rng.integers(NUM_UTTERANCES, size=len(one)))
    usable = (one != other) & (same == (speaker[one] == speaker[other]))
    _, first = np.unique(one * NUM_UTTERANCES + other, return_index=True)
    chosen = np.sort(first[usable[first]])[:num_trials]
    data = work / "data"
    (data / "trials").mkdir(parents=True, exist_ok=True)
    with (data / "trials" / "list").open("w") as handle:
        for a, b, is_same in zip(one[chosen].tolist(), other[chosen].tolist(), same[chosen].tolist(), strict=True):
            handle.write(f"{names[a]} {names[b]} {'target' if is_same else 'nontarget'}\n")
    lines = (data / "trials" / "list").open().readlines() if num_trials < 1_000_000 else []
    for count in SLICES if lines else ():
        (data / f"slice_{count}").write_text("".join(lines[:count]))
    for folder, table in (
        ("eval", {name: name.partition("/")[0] for name in names}),
        ("train", {name: name for name in cohort_names}),
    ):
        (data / folder).mkdir(exist_ok=True)
        (data / folder / "utt2spk").write_text("".join(f"{name} {value}\n" for name, value in table.items()))
    CorpusInfo(name="made_up", trials={"list": "eval"}, headline="list").save(data / "corpus.yaml")


def main() -> None:
    """Make the set, time the commands, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wespeaker", type=Path, help="checkout of WeSpeaker; leave out to time ours alone")
    parser.add_argument("--python", type=Path, help="interpreter that runs it")
    parser.add_argument("--work", type=Path, default=Path("/tmp/compare_scoring"))
    parser.add_argument("--num_trials", type=COUNT, default=550_894)
    parser.add_argument("--rounds", type=COUNT, default=3)
    args = parser.parse_args()
    work = args.work / str(args.num_trials)
    take_folder(work, made_before=(work / "data" / "corpus.yaml").is_file())
    if not (work / "data" / "corpus.yaml").is_file():
        # In a process of its own: what this one holds would count as the peak of every child.
        maker = multiprocessing.get_context("spawn").Process(target=make_set, args=(work, args.num_trials))
        maker.start()
        maker.join()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    own = {**environment, "PYTHONPATH": str(Path(__file__).parents[1])}
    peer = {**environment, "PYTHONPATH": str(args.wespeaker)}

    def ours(*options: str) -> Cost:
        (work / "exp" / ".done" / options[0]).unlink(missing_ok=True)
        (work / "exp" / ".done" / "asnorm").unlink(missing_ok=True)
        return run([sys.executable, "-m", "wespeaker_qm.bin.main", *options], work, own)

    def theirs(program: str, *options: str) -> Cost:
        return run([str(args.python), str(args.wespeaker / "wespeaker" / "bin" / program), *options], work, peer)

    here = ("--data", "data", "--exp_dir", "exp")
    scores, cache = work / "exp" / "scores" / "list.score", work / "exp" / "scores" / "list.score.npz"
    costs: dict[str, list[Cost]] = {}
    for _ in Progress(range(args.rounds), unit="round"):
        rows = {
            "score, cache alone": lambda: ours("score", *here, "--text", "false"),
            "score": lambda: ours("score", *here),
            "metrics, from the cache": lambda: ours("metrics", str(scores), "--num_resamples", "0"),
            "metrics and DET plot": lambda: ours("metrics", str(scores), "--num_resamples", "0", "--det", "det"),
            "metrics, 1,000 resamples": lambda: ours("metrics", str(scores)),
            "AS-norm": lambda: ours("normalise", *here),
        }
        if args.wespeaker is not None:
            rows |= _their_rows(theirs, work)
        for name, command in rows.items():
            costs.setdefault(name, []).append(command())
        kept = cache.rename(work / "kept.npz")
        costs.setdefault("metrics, from the text", []).append(ours("metrics", str(scores), "--num_resamples", "0"))
        kept.rename(cache)
    _show(costs, args.num_trials)
    if args.wespeaker is not None:
        print(both_sides(args.python, args.wespeaker))


def _their_rows(theirs: Callable[..., Cost], work: Path) -> dict[str, Callable[[], Cost]]:
    """WeSpeaker's commands; theirs are run after ours, whose scores they read."""
    (work / "peer" / "scores").mkdir(parents=True, exist_ok=True)
    paths = ["--exp_dir", "peer", "--eval_scp_path", "exp/embeddings/eval/xvector.scp"]
    slices = {
        f"slice {count}": lambda count=count: theirs(
            "score.py", *paths, "--cal_mean", "False", "--cal_mean_dir", ".", f"data/slice_{count}"
        )
        for count in SLICES
    }
    norm = ["--score_norm_method", "asnorm", "--top_n", "300", "--trial_score_file", "exp/scores/list.score"]
    norm += ["--score_norm_file", "peer/scores/asnorm", "--cohort_emb_scp", "exp/embeddings/train/spk_xvector.scp"]
    norm += ["--eval_emb_scp", "exp/embeddings/eval/xvector.scp", "--mean_vec_path", "exp/embeddings/mean_vec.npy"]
    return {
        **slices,
        "their metrics": lambda: theirs(
            "compute_metrics.py", "--p_target", "0.01", "--c_fa", "1", "--c_miss", "1", "exp/scores/list.score"
        ),
        "their DET": lambda: theirs("compute_det.py", "exp/scores/list.score"),
        "their AS-norm": lambda: theirs("score_norm.py", *norm),
    }


def _both(one: Cost, two: Cost) -> Cost:
    return Cost(one.wall_s + two.wall_s, one.cpu_s + two.cpu_s, max(one.peak_mib, two.peak_mib))


def _show(costs: dict[str, list[Cost]], num_trials: int) -> None:
    median = {name: Cost(*np.median(rounds, axis=0).tolist()) for name, rounds in costs.items()}
    rows = []
    if "their metrics" in median:
        short, long = (median[f"slice {count}"] for count in SLICES)
        each = tuple((b - a) / (SLICES[1] - SLICES[0]) for a, b in zip(short[:2], long[:2], strict=True))
        loop = Cost(*(short[i] + each[i] * (num_trials - SLICES[0]) for i in range(2)), short.peak_mib)
        peers = {
            "score": loop,
            "score, cache alone": loop,
            "metrics, from the text": median["their metrics"],
            "metrics, from the cache": median["their metrics"],
            "metrics and DET plot": _both(median["their metrics"], median["their DET"]),
            "AS-norm": median["their AS-norm"],
        }
        print(f"WeSpeaker's loop: {1000 * each[0]:.2f} ms a trial\n")
    else:
        peers = {}
    for name, cost in median.items():
        if name.startswith(("slice", "their")):
            continue
        row = [name, f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_mib:,.0f}"]
        other = peers.get(name)
        if other is None:
            row += ["", "", "", ""]
        else:
            ratios = f"{other.wall_s / cost.wall_s:.1f}", f"{other.cpu_s / cost.cpu_s:.1f}"
            row += [f"{other.wall_s:.1f}", f"{other.peak_mib:,.0f}", *ratios]
        rows.append(row)
    header = ["command", "wall s", "CPU s", "peak MiB", "WeSpeaker: wall s", "peak MiB", "ratio, wall", "ratio, CPU"]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
