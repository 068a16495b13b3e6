"""Start several training processes on this machine: torchrun, but the last that is told is why they ended.

``python -m wespeaker_qm.train.launch`` takes torchrun's options. Where torchrun would print a traceback of its own
below the message of the process that failed, this says nothing, or by which signal a process died, which cannot say so
itself.
"""

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun.

    Args:
        arguments: of its command line; None = ``sys.argv[1:]``.

    Returns:
        0; the exit status of the first process that failed; or 128 and the number of the signal that ended it, or this.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(list(sys.argv[1:] if arguments is None else arguments)))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        sys.stderr.write(
            f"error: process {rank} was killed by {name} (out of memory?); the same command goes on from the last "
            "state that was saved\n"
        )
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main())
