from __future__ import annotations

import threading
import time

import pytest
from tgo.pipeline.scoring.worker_threads import AHEAD, Lane, Lanes, open_lanes


def test_a_lane_keeps_the_order_and_bounds_what_waits() -> None:
    lane, done, gate = Lane(), [], threading.Event()
    lane.put(gate.wait)
    for number in range(AHEAD):
        lane.put(lambda number=number: done.append(number))
    blocked = threading.Thread(target=lane.put, args=(lambda: done.append(AHEAD),))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive(), "more than AHEAD calls were taken in"
    gate.set()
    blocked.join()
    lane.wait()
    assert done == list(range(AHEAD + 1))
    lane.close()


def fail() -> None:
    raise ValueError("the disk is gone")


def test_an_error_comes_up_where_the_block_ends() -> None:
    def block(lanes: Lanes) -> None:
        with lanes.settled():
            lanes.store.put(fail)
            lanes.store.put(lambda: time.sleep(0.01))

    with open_lanes("cpu") as lanes, pytest.raises(ValueError, match="the disk is gone"):
        block(lanes)


def test_the_next_put_tells_of_an_error_too() -> None:
    def many(lane: Lane) -> None:
        lane.put(fail)
        for _ in range(1000):
            lane.put(lambda: time.sleep(0.001))

    lane = Lane()
    with pytest.raises(ValueError, match="gone"):
        many(lane)
    lane.close()


def test_nothing_runs_any_more_when_a_block_fails() -> None:
    running, ended = threading.Event(), []

    def slow() -> None:
        running.set()
        time.sleep(0.05)
        ended.append("the running call")

    def interrupted(lanes: Lanes) -> None:
        with lanes.settled():
            lanes.store.put(slow)
            lanes.store.put(lambda: ended.append("a waiting call"))
            running.wait()
            raise KeyboardInterrupt

    with open_lanes("cpu") as lanes:
        with pytest.raises(KeyboardInterrupt):
            interrupted(lanes)
        assert ended == ["the running call"]


def test_each_keeps_the_order_of_its_items() -> None:
    with open_lanes("cpu") as lanes:
        assert lanes.each(lambda item: item * 2, range(20)) == list(range(0, 40, 2))
