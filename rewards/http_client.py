"""Scores from a server: requests that are tried again, counted, paced, and answered once only."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo.rewards.errors import RewardError

if TYPE_CHECKING:
    from requests import Response

AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""
LONGEST_PAUSE = 120.0
"""Seconds that a server may ask to wait for; a run that would stand still for longer ends."""


class Client:
    """POSTs JSON to one server.

    Args:
        url: of the endpoint.
        key_variable: environment variable that holds the key; the key goes into a header and
            nowhere else. None for a server without.
        timeout: seconds that an answer may take.
        attempts: tries a request, with doubling pauses or those that the server names.
        pause: seconds before the second try.
        per_minute: requests a minute, those that are tried again among them; None for as many as
            go.
        budget: requests in the life of this process, counted the same; None for no limit.
    """

    def __init__(
        self,
        url: str,
        *,
        key_variable: str | None = None,
        timeout: float = 120.0,
        attempts: int = 5,
        pause: float = 1.0,
        per_minute: float | None = None,
        budget: int | None = None,
    ) -> None:
        import requests

        self.url, self._timeout, self._budget = url, timeout, budget
        self._attempts, self._pause = attempts, pause
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next, self._sent, self._lock = 0.0, 0, threading.Lock()
        self._session = requests.Session()
        self._key_variable, self._key = key_variable, os.environ.get(key_variable or "", "")
        if key_variable is not None:
            if not self._key:
                raise RewardError(
                    f"{url}: wants a key, but {key_variable} is not set in the environment; set it"
                )
            self._session.headers["Authorization"] = f"Bearer {self._key}"

    def post(self, body: dict[str, Any]) -> Any:
        """The JSON that the server answers.

        Raises RewardError: it cannot be reached, refuses, answers no JSON, or the budget is
        spent.
        """
        answer = self._answer(body)
        if not answer.ok:
            raise RewardError(f"{self.url}: {self._refusal(answer.status_code, answer.text)}")
        try:
            return answer.json()
        except ValueError as error:
            raise RewardError(
                f"{self.url}: answers no JSON ({self._short(answer.text)}); is it the right "
                "address?"
            ) from error

    def _answer(self, body: dict[str, Any]) -> Response:
        """The first answer that may stand, or the last one."""
        import requests

        for attempt in range(1, self._attempts + 1):
            self._wait()
            pause = self._pause * 2.0 ** (attempt - 1)
            try:
                answer = self._session.post(self.url, json=body, timeout=self._timeout)
            except requests.RequestException as error:
                if attempt == self._attempts:
                    raise RewardError(
                        f"{self.url}: does not answer ({type(error).__name__}); start the server "
                        "or mend the network, then run again: what was answered is kept"
                    ) from error
            else:
                if answer.status_code not in AGAIN or attempt == self._attempts:
                    return answer
                pause = self._named_pause(answer) or pause
            time.sleep(pause)
        raise AssertionError("no attempt was made")

    def _named_pause(self, answer: Response) -> float | None:
        """The seconds that a server asks to wait for; RewardError where they are too many."""
        from urllib3.exceptions import InvalidHeader
        from urllib3.util import Retry

        try:
            seconds = Retry().parse_retry_after(answer.headers.get("Retry-After", "0"))
        except InvalidHeader:
            return None
        if seconds > LONGEST_PAUSE:
            raise RewardError(
                f"{self.url}: asks to wait {seconds:,.0f} s (status {answer.status_code}); run "
                "again then: what was answered is kept"
            )
        return seconds

    def _wait(self) -> None:
        """Count one request, and sleep until its turn."""
        with self._lock:
            if self._budget is not None and self._sent >= self._budget:
                raise RewardError(
                    f"{self.url}: its budget of {self._budget} requests is spent; raise "
                    "options.budget, then run again: what was answered is kept"
                )
            self._sent += 1
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        time.sleep(max(0.0, turn - time.monotonic()))

    def _refusal(self, status: int, text: str) -> str:
        if status in (401, 403):
            return f"refuses the key of {self._key_variable} (status {status}); set a valid one"
        if status == 429:
            return "has too many requests or no quota left (status 429); lower options.per_minute"
        return f"answers with status {status} ({self._short(text)})"

    def _short(self, text: str) -> str:
        """The beginning of an answer, without the key that it may repeat."""
        text = text.replace(self._key, "[the key]") if self._key else text
        return " ".join(text.split())[:120] or "nothing"


class AnswerCache:
    """Answers by the hash of what was asked, in a file: a run that is killed pays nothing twice.

    Args:
        path: an SQLite file, made where it is missing; several processes may share it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._local = path, threading.local()
        try:
            with self._connection() as connection:
                connection.execute(
                    "create table if not exists answers (key text primary key, answer)"
                )
        except sqlite3.Error as error:
            raise RewardError(
                f"{path}: is no cache of answers ({error}); remove it, or name another file"
            ) from error

    def once(self, asked: Any, ask: Callable[[], Any]) -> Any:
        """The answer to `asked`, plain JSON; `ask()` is called where none is kept."""
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        with self._connection() as connection:
            row = connection.execute("select answer from answers where key = ?", (key,)).fetchone()
        if row is not None:
            return json.loads(row[0])
        answer = ask()
        with self._connection() as connection:
            kept = (key, json.dumps(answer))
            connection.execute("insert or replace into answers values (?, ?)", kept)
        return answer

    def _connection(self) -> sqlite3.Connection:
        """One connection a thread; as a context it commits."""
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._path, timeout=60)
        found: sqlite3.Connection = self._local.connection
        return found
