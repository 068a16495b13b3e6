"""The device that a configuration asks for is there, or there is an error that says what is."""

import pytest
import torch

from wespeaker_qm.network.device import choose_device, refuse_missing_gpus
from wespeaker_qm.utils.errors import RecipeError


def test_gpus_that_a_configuration_names_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refuse_missing_gpus("[0]", "auto")
    refuse_missing_gpus(None, "auto")
    refuse_missing_gpus("[0,7]", "cpu")
    with pytest.raises(RecipeError, match=r"gpus: found \[0,7\], but this machine shows 1 GPU"):
        refuse_missing_gpus("[0,7]", "auto")
    with pytest.raises(RecipeError, match=r"gpus: found \[7\]"):
        refuse_missing_gpus([7], "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    refuse_missing_gpus("[7]", "auto")


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu", 5) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto", 5) == torch.device("cpu")
    with pytest.raises(
        RecipeError, match="device: found cuda, but this machine shows no GPU to PyTorch; set device=cpu"
    ):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(RecipeError, match=r"process 2 wants .* but 2 are visible; start fewer processes"):
        choose_device("auto", 2)
