"""One thread for our own linear algebra, and afterwards as many as before, whoever else was at it meanwhile."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from unittest.mock import patch

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.blas import BLAS, one_thread


def threads() -> set[int]:
    return {library["num_threads"] for library in BLAS.info()}


@pytest.fixture(autouse=True)
def _three() -> Iterator[None]:
    with threadpool_limits(3, user_api="blas"):
        yield


def test_threads_that_overlap_leave_what_the_first_one_found() -> None:
    inside, leave = Event(), Event()

    def first() -> None:
        with one_thread():
            inside.set()
            leave.wait()

    other = Thread(target=first)
    other.start()
    inside.wait()
    with one_thread():
        leave.set()
        other.join()  # the first leaves while the second is inside
        assert threads() == {1}
    assert threads() == {3}
    with pytest.raises(ValueError, match="no"), one_thread():
        raise ValueError("no")
    assert threads() == {3}


def test_a_block_within_a_block_asks_nothing_of_the_libraries() -> None:
    with one_thread(), patch("lmsearcher_local.system.blas.defer_signals", side_effect=AssertionError):
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {3}


def test_surrogates_in_many_threads_at_once() -> None:
    space = SearchSpace([4] * 5)
    codes = space.sample(np.random.default_rng(0), 60)
    history, start = History(tuple(codes[:40]), tuple(map(float, range(40)))), Barrier(4)

    def posterior(_: int) -> bytes:
        start.wait()
        return np.concatenate([Surrogate(space, history).posterior(codes[40:]) for _ in range(5)]).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(posterior, range(4)))) == 1
    assert threads() == {3}


def test_a_child_forked_meanwhile_is_not_held_back() -> None:
    with one_thread():
        child = os.fork()
        if not child:
            ok = threads() == {3}
            with one_thread():
                ok = ok and threads() == {1}
            os._exit(0 if ok and threads() == {3} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert threads() == {1}
