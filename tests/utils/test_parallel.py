"""Work spread over processes."""

import multiprocessing

from wespeaker_qm.utils.parallel import ordered_map


def test_results_are_in_order_and_processes_are_gone_with_the_last() -> None:
    """Also for who takes as many results as there are items and no end: Ctrl-C would be lost while they end."""
    for num_items in (1, 2, 30):
        results = ordered_map(abs, range(-num_items, 0), 2)
        assert [next(results) for _ in range(num_items)] == list(range(num_items, 0, -1))
        assert not multiprocessing.active_children()
        assert next(results, None) is None
    assert list(ordered_map(abs, [], 2)) == []
