from __future__ import annotations

from tests.faults import kill_repro


def test_what_differs_is_named() -> None:
    whole = {"a": b"1", "b": b"2"}
    assert kill_repro.differences(whole, {"a": b"3", "c": b"4"}) == [
        "b: lacks",
        "c: is left over",
        "a: other bytes",
    ]
    assert kill_repro.differences(whole, dict(whole)) == []
