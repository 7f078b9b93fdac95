"""HPSv3 as a scoring server, in an environment of its own: its package pins what ours cannot have.

    pip install hpsv3
    python hpsv3_server.py 18085

    rewards:
      hpsv3:
        module: tgo.rewards.score_server
        source: http://localhost:18085/score
        options: {model: MizzenAI/HPSv3, unit: preference}

Any other model is served alike: replace `scorer`.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

from PIL import Image

Scorer = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[float]]


def scorer() -> Scorer:
    """The model, loaded: images and prompts to a number each."""
    from hpsv3 import HPSv3RewardInferencer

    model = HPSv3RewardInferencer(device="cuda")

    def score(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [float(reward[0]) for reward in model.reward(list(prompts), list(images))]

    return score


def serve(score: Scorer, port: int) -> HTTPServer:
    """A server on the loopback address that answers POSTs with scores."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Images and prompts in, scores out; status 500 with the reason where it failed."""
            answer: dict[str, list[float] | str]
            try:
                size = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(size))
                images = [Image.open(io.BytesIO(base64.b64decode(i))) for i in asked["images"]]
                status, answer = 200, {"scores": list(score(images, asked["prompts"]))}
            except Exception as error:  # noqa: BLE001 whatever fails is told to the client
                status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    serve(scorer(), int(sys.argv[1])).serve_forever()
