"""Work beside the caller: decoding, scoring, encoding and writing while the next batch is sampled.

A worker is one thread that does what it is given in order, so results do not depend on timing. What
waits is bounded, and an error comes up in the caller's thread, at its next `put` or `wait`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
QUEUE_LENGTH = 2
"""Batches that may wait for a worker: enough to even out their times, little to hold in memory."""


class Queue(Protocol):
    """Calls that are done in order, here or in a thread."""

    def put(self, call: Callable[[], Any]) -> None:
        """Do `call` after all that was put before; raises what an earlier call raised."""
        ...

    def wait(self) -> None:
        """Wait until everything is done; raises what a call raised."""
        ...

    def drop(self) -> None:
        """Let the running call end and forget those that wait, with their errors."""
        ...


class Inline:
    """Calls at once, in the calling thread: on the CPU, where sampling needs every core itself."""

    def put(self, call: Callable[[], Any]) -> None:
        call()

    def wait(self) -> None:
        pass

    def drop(self) -> None:
        pass


class WorkerThread:
    """One thread that calls in order; `put` blocks while `QUEUE_LENGTH` calls wait already."""

    def __init__(self, around: Callable[[], Any] = nullcontext) -> None:
        """`around` gives the context each call is made in, such as a stream of the GPU."""
        self._pool = ThreadPoolExecutor(1)
        self._around = around
        self._pending: deque[Future[None]] = deque()

    def put(self, call: Callable[[], Any]) -> None:
        while self._pending and (len(self._pending) > QUEUE_LENGTH or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._do, call))

    def wait(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def drop(self) -> None:
        for future in self._pending:
            future.cancel()
        wait(self._pending)
        self._pending.clear()

    def close(self) -> None:
        """End the thread."""
        self.drop()
        self._pool.shutdown()

    def _do(self, call: Callable[[], Any]) -> None:
        with self._around():
            call()


@dataclass(frozen=True)
class Workers:
    """What follows sampling: `finish` decodes and scores, `store` encodes and writes."""

    finish: Queue
    store: Queue
    encoders: ThreadPoolExecutor

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Wait for all calls of the block when it ends; when it fails, drop those that wait.

        Calls of `finish` put into `store`, so `finish` is waited for first.
        """
        try:
            yield
            self.finish.wait()
            self.store.wait()
        except BaseException:
            self.finish.drop()
            self.store.drop()
            raise

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`function` of every item on the pinned number of CPU threads, in order."""
        return list(self.encoders.map(function, items))


@contextmanager
def open_workers(device: str) -> Iterator[Workers]:
    """Workers for models on `device`: on a GPU decoding and scoring get a stream of their own."""
    import torch

    with ExitStack() as stack:
        encoders = stack.enter_context(ThreadPoolExecutor(torch.get_num_threads()))
        store = WorkerThread()
        stack.callback(store.close)
        finish: WorkerThread | Inline = Inline()
        if device == "cuda":
            stream = torch.cuda.Stream()
            finish = WorkerThread(lambda: torch.cuda.stream(stream))
            stack.callback(finish.close)  # before `store`, which it may wait for
        yield Workers(finish, store, encoders)
