"""The device that a configuration asks for."""

import os
import re
from collections.abc import Sequence

import torch

from wespeaker_qm.utils.errors import RecipeError, counted


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is the GPU of this process if there is one.

    Raises:
        RecipeError: ``cuda`` without a GPU, or fewer GPUs than processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.device_count():
        raise RecipeError(
            "device: found cuda, but this machine shows no GPU to PyTorch; set device=cpu, or, if there is one, see "
            "what wespeaker-qm doctor says of it and whether CUDA_VISIBLE_DEVICES hides it"
        )
    if local_rank >= torch.cuda.device_count():
        raise RecipeError(
            f"device: process {local_rank} wants a GPU of its own, but {torch.cuda.device_count()} are visible; "
            "start fewer processes (run.sh --num_processes, or --gpus), check CUDA_VISIBLE_DEVICES, or set device=cpu"
        )
    return torch.device("cuda", local_rank)


def refuse_missing_gpus(gpus: str | Sequence[int] | None, device: str) -> None:
    """Check that the GPUs which a configuration asks for are there; with ``device`` cpu it asks for none.

    ``CUDA_VISIBLE_DEVICES``, which ``run.sh --gpus`` sets, has the last word: where it is set, nothing is checked.

    Raises:
        RecipeError: a GPU is not there.
    """
    if gpus is None or device == "cpu" or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    numbers = [int(number) for number in re.findall(r"\d+", str(gpus))]
    found = torch.cuda.device_count()
    if any(number >= found for number in numbers):
        raise RecipeError(
            f"gpus: found {gpus}, but this machine shows {counted(found, 'GPU', 'GPUs')}; name what is there (run.sh "
            "--gpus), or set gpus=null to take what there is, or device=cpu"
        )
