"""The local web server of the rating page: Flask's routes, served by waitress.

It listens on this machine alone unless told otherwise; then every request needs the token of the
address that is printed at the start. Requests from other web sites are refused: by the name of the
host they ask for, and since only JSON is taken.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from flask import Flask, Response, abort, jsonify, redirect, request, send_file
from werkzeug.exceptions import HTTPException

from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page import pictures
from tgo.pipeline.rating_page.session import Asked, Session
from tgo.pipeline.templates import colours, template
from tgo.pipeline.wording import harmless

LONGEST_NAME = 40
TOKEN_VARIABLE = "TGO_ASK_TOKEN"
_COOKIE = "tgo-token"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_NAME = re.compile(r"[0-9a-f]{20}\.png")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
log = logging.getLogger(__name__)


@dataclass
class Served:
    """What all requests share."""

    session: Session
    instructions: str
    token: str | None
    """What every request must know; None on this machine alone."""
    lock: Lock = field(default_factory=Lock)

    def state(self, rater: str) -> dict[str, Any]:
        """What a rater's page shows next, ready for JSON."""
        asked = self.session.next(rater)
        shown = None if asked is None else self._question(asked)
        return {"question": shown, "progress": self.session.progress(rater)}

    def _question(self, asked: Asked) -> dict[str, Any]:
        return {
            "key": asked.question.key,
            "kind": asked.question.kind.value,
            "prompt": harmless(asked.question.prompt),
            "pictures": asked.files,
            "scale": self.session.options.scale,
        }


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(session: Session, *, host: str, instructions: str = "") -> tuple[Flask, str | None]:
    """The web application.

    Args:
        session: The questions and answers.
        host: Where it will listen; anything but this machine alone gets a token.
        instructions: A text above every question.

    Returns:
        The application, and its token where it needs one: that of the environment, which raters
        keep when the server starts again, or a new one.
    """
    own = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(16)
    token = None if is_loopback(host) else own
    served = Served(session, instructions, token)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 1 << 16
    app.before_request(lambda: _require_known(served))
    app.after_request(_protected)
    app.register_error_handler(InputError, _refused)
    app.register_error_handler(HTTPException, _failed)
    app.add_url_rule("/", view_func=lambda: _page(served), endpoint="page")
    for name, kind in (("rating_page.js", "text/javascript"), ("rating_page.css", "text/css")):
        app.add_url_rule(f"/{name}", endpoint=name, view_func=_file(name, kind))
    app.add_url_rule("/images/<name>", view_func=_picture_of(served), endpoint="picture")
    for action in ("next", "answer", "skip", "undo"):
        app.add_url_rule(
            f"/api/{action}", endpoint=action, view_func=_call(served, action), methods=["POST"]
        )
    return app, token


def serve(app: Flask, host: str, port: int) -> None:
    """Answer requests until Ctrl-C; InputError if the port is taken.

    Args:
        app: The application.
        host: The address to listen at.
        port: Its port.

    Raises:
        InputError: nobody may listen there, or somebody does.
    """
    from waitress.server import create_server

    try:
        server = create_server(app, host=host, port=port, threads=8, ident=None)
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); choose another --port"
        ) from None
    server.run()


def _require_known(served: Served) -> Any:
    if served.token is None:
        name = request.host.rpartition(":")[0] if request.host[-1:].isdigit() else request.host
        if (name or request.host) not in _LOOPBACK:
            abort(403, "this page is for this machine alone")
    else:
        if _is_same(request.args.get("token", ""), served.token):
            answer = redirect("/")
            answer.set_cookie(_COOKIE, served.token, httponly=True, samesite="Strict")
            return answer
        if not _is_same(request.cookies.get(_COOKIE, ""), served.token):
            abort(403, "open the address that `tgo ask` printed, with its token")
    if request.headers.get("Sec-Fetch-Site", "same-origin") == "cross-site" and request.path != "/":
        abort(403, "requests of other sites are refused")
    return None


def _is_same(told: str, token: str) -> bool:
    return secrets.compare_digest(told.encode(), token.encode())


def _protected(answer: Response) -> Response:
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer


def _refused(error: InputError) -> tuple[Response, int]:
    return jsonify(error=harmless(str(error))), 400


def _failed(error: HTTPException) -> tuple[Response, int]:
    return jsonify(error=error.description or error.name), error.code or 500


def _page(served: Served) -> str:
    return template("rating_page.html.j2").render(instructions=harmless(served.instructions))


def _file(name: str, kind: str) -> Callable[[], Response]:
    return lambda: Response(_text(name), content_type=f"{kind}; charset=utf-8")


def _text(name: str) -> str:
    return template(name).render(light=colours.LIGHT, dark=colours.DARK)


def _picture_of(served: Served) -> Callable[[str], Response]:
    def picture(name: str) -> Response:
        path: Path = served.session.answers.folder / pictures.FOLDER / name
        if not _NAME.fullmatch(name) or not path.is_file():
            abort(404, "no such picture")
        answer = send_file(path.resolve(), mimetype="image/png")
        answer.headers["Cache-Control"] = "private, max-age=86400"
        return answer

    return picture


def _call(served: Served, action: str) -> Callable[[], Response]:
    """The view of one action: it does it, and answers with what comes next."""

    def view() -> Response:
        body = request.get_json()
        if not isinstance(body, dict):
            abort(400, "an object is needed")
        rater = _rater(body.get("rater"))
        with served.lock:
            if action == "answer":
                values, seconds = body.get("values"), body.get("seconds", 0)
                if not isinstance(values, list) or not _is_duration(seconds):
                    abort(400, "values needs a list, seconds a number from 0")
                served.session.answer(rater, str(body.get("question")), values, float(seconds))
            elif action == "skip":
                served.session.skip(rater, str(body.get("question")))
            elif action == "undo":
                served.session.undo(rater)
            return jsonify(served.state(rater))

    return view


def _is_duration(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and 0 <= seconds < math.inf


def _rater(name: Any) -> str:
    """A rater's name; InputError for what is none."""
    clean = name.strip() if isinstance(name, str) else ""
    if not clean or len(clean) > LONGEST_NAME or not clean.isprintable():
        raise InputError(f"a rater's name has 1 to {LONGEST_NAME} letters; write another")
    return clean
