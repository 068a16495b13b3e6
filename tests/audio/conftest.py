"""Our reference; where it cannot be imported beside a newer torch, what needs it fails alone."""

import importlib

import pytest


@pytest.fixture
def torchaudio():
    """torchaudio, with its Kaldi features."""
    importlib.import_module("torchaudio.compliance.kaldi")
    return importlib.import_module("torchaudio")


@pytest.fixture
def kaldi(torchaudio):
    return torchaudio.compliance.kaldi
