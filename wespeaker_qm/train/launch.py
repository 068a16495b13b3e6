"""Start several training processes on this machine: torchrun, but the last that is told is why they ended.

``python -m wespeaker_qm.train.launch`` takes torchrun's options. Where torchrun would print its own log, a table and a
traceback below the message of the process that failed, this prints that message, once for all processes of this
machine, or by which signal a process died, which cannot say so itself. A process that is started once more afterwards
(``--max_restarts``) tells by itself. None is after an error that it would meet again.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from wespeaker_qm.utils.ending import LAUNCHED
from wespeaker_qm.utils.files import scratch_folder
from wespeaker_qm.utils.trouble import ended, remedy_of_death

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_GOES_ON = "the same command goes on from the last state that was saved"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun.

    Args:
        arguments: of its command line; None = ``sys.argv[1:]``.

    Returns:
        0; the exit status of the process that failed first; 128 and the number of the signal that ended it, or this; or
        1 where machines do not find each other.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError
    from torch.distributed.run import parse_args, run

    if "LOGLEVEL" not in os.environ:  # by which torchrun's users ask for its log
        logging.disable(logging.ERROR)
    os.environ[LAUNCHED] = "true"
    # With one store for all times processes find each other by the addresses of those that were there before.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        with scratch_folder("wespeaker_qm.launch") as reports:  # otherwise torchrun leaves a folder behind each time
            parsed = parse_args(["--log_dir", str(reports), *(sys.argv[1:] if arguments is None else arguments)])
            with _no_restart_after_final_errors():
                run(parsed)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        return _told(error.failures)
    except RendezvousClosedError:
        sys.stderr.write(f"error: another machine has ended the training: see its message; {_GOES_ON}\n")
        return 1
    except RendezvousError as error:
        sys.stderr.write(
            f"error: the machines that train together do not find each other ({error}): expected --num_nodes "
            f"{parsed.nnodes} of them, all with the same --job_id ({parsed.rdzv_id}) and --HOST_NODE_ADDR "
            f"({parsed.rdzv_endpoint}), of which the first must be at work; start them all again: {_GOES_ON}\n"
        )
        return 1
    return 0


@contextlib.contextmanager
def _no_restart_after_final_errors() -> Iterator[None]:
    """In the block torchrun takes all restarts for used up when a process has met an error that the next would meet."""
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    monitor = LocalElasticAgent._monitor_workers

    def monitored(self: LocalElasticAgent, group: WorkerGroup) -> RunResult:
        result = monitor(self, group)
        said = [failure.message for failure in result.failures.values()]
        if any(isinstance(each, dict) and each.get("is_final") for each in said):
            self._remaining_restarts = 0
        return result

    LocalElasticAgent._monitor_workers = monitored  # type: ignore[method-assign]
    try:
        yield
    finally:
        LocalElasticAgent._monitor_workers = monitor  # type: ignore[method-assign]


def _told(failures: "Mapping[int, ProcessFailure]") -> int:
    """Tell why the processes of this machine ended; the exit status that says so, too.

    Args:
        failures: rank -> what became of it; processes that torchrun ended because of another one are among them.
    """
    rank = min(failures, key=lambda each: (_blame(failures[each]), failures[each].timestamp))
    status, said = failures[rank].exitcode, failures[rank].message
    if isinstance(said, dict):
        sys.stderr.write(f"error: {said['message']}\n")
    elif status < 0:
        remedy = "" if status in (-signal.SIGKILL, -signal.SIGTERM) else f"{remedy_of_death(status)}; "
        sys.stderr.write(f"error: process {rank} {ended(status)}; {remedy}{_GOES_ON}\n")
    return status if status > 0 else 128 - status


def _blame(failure: "ProcessFailure") -> int:
    """Smaller for a process that is more likely to have failed first: torchrun's times are whole seconds."""
    if isinstance(failure.message, dict):
        return 3 if failure.message["lost"] else 0
    if failure.exitcode < 0:
        return 2 if failure.exitcode == -signal.SIGTERM else 1  # which torchrun sends to the others
    return 4


if __name__ == "__main__":
    sys.exit(main())
