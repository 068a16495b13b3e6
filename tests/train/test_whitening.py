"""Whitening within classes, beside plain numpy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from wespeaker_qm.train.whitening import FLOOR, multiply_into, whitening_map, within_class_covariance

GENERATOR = np.random.default_rng(3)
LABELS = np.array([4, 0, 4, 9, 0, 4, 9, 9, 9, 0, 7])
EMBEDDINGS = GENERATOR.standard_normal((len(LABELS), 5)) * GENERATOR.uniform(0.1, 30, (len(LABELS), 1))


def covariance_of(embeddings, labels, size):
    """In batches of ``size``."""
    rows, classes = torch.from_numpy(embeddings), torch.from_numpy(labels)
    return within_class_covariance(zip(rows.split(size), classes.split(size), strict=True))


def by_hand(embeddings, labels):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    total = np.zeros((embeddings.shape[1],) * 2)
    for row, label in zip(unit, labels, strict=True):
        off = row - unit[labels == label].mean(axis=0)
        total += np.outer(off, off)
    return total / len(labels)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_the_covariance_is_that_of_unit_embeddings_around_their_class(size):
    found = covariance_of(EMBEDDINGS, LABELS, size)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), by_hand(EMBEDDINGS, LABELS), atol=1e-14)


def test_lengths_of_embeddings_say_nothing():
    lengths = np.linspace(0.01, 100, len(LABELS))[:, None]
    one, other = covariance_of(EMBEDDINGS, LABELS, 4), covariance_of(EMBEDDINGS * lengths, LABELS, 4)
    torch.testing.assert_close(one, other)


def test_embeddings_that_carry_a_gradient_leave_none():
    rows = torch.from_numpy(EMBEDDINGS).requires_grad_()
    assert not within_class_covariance([(rows, torch.from_numpy(LABELS))]).requires_grad


def test_the_map_is_the_root_of_the_inverse_with_a_floor():
    covariance = covariance_of(EMBEDDINGS, LABELS, 4)
    matrix = whitening_map(covariance)
    torch.testing.assert_close(matrix, matrix.T)
    relative = covariance / covariance.diagonal().mean() + FLOOR * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(matrix @ relative @ matrix, torch.eye(5, dtype=torch.float64))


def test_the_unit_of_the_covariance_does_not_matter():
    covariance = covariance_of(EMBEDDINGS, LABELS, 4)
    torch.testing.assert_close(whitening_map(covariance), whitening_map(1e-6 * covariance))


def test_where_all_directions_are_alike_nothing_is_turned():
    expected = torch.eye(4, dtype=torch.float64) / (1 + FLOOR) ** 0.5
    torch.testing.assert_close(whitening_map(3 * torch.eye(4)), expected)


def test_a_direction_without_variance_is_not_blown_up():
    matrix = whitening_map(torch.diag(torch.tensor([4.0, 4.0, 0.0])))
    assert matrix[2, 2] == pytest.approx(FLOOR**-0.5)
    assert matrix[0, 0] == pytest.approx((1.5 + FLOOR) ** -0.5)


def test_the_layer_gives_the_mapped_output():
    layer, features = nn.Linear(7, 5), torch.randn(3, 7)
    matrix = torch.from_numpy(GENERATOR.standard_normal((5, 5)))
    expected = layer(features).double() @ matrix.T
    multiply_into(layer, matrix)
    torch.testing.assert_close(layer(features), expected.float())
    assert layer.weight.requires_grad


def test_speakers_stand_apart_who_were_hidden_behind_a_channel():
    """Two speakers who differ in one direction, and scatter ten times as widely in another."""
    labels = np.repeat([0, 1], 200)
    scatter = GENERATOR.standard_normal((400, 3)) * [0.02, 0.2, 0.02]
    embeddings = np.array([1.0, 0.0, 0.0]) + np.where(labels == 0, -1, 1)[:, None] * [0.0, 0.0, 0.05] + scatter
    matrix = whitening_map(covariance_of(embeddings, labels, 50)).numpy()

    def separation(rows):
        unit = rows - rows.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosines, same = unit @ unit.T, labels[:, None] == labels
        return cosines[same].mean() - cosines[~same].mean()

    assert separation(embeddings @ matrix) > 3 * separation(embeddings)
