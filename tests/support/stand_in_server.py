"""A server of chat completions whose replies a test writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]


class StandIn:
    """A server of chat completions whose replies a test writes: `reply(body, number)` gives status and what the assistant says."""

    def __init__(self) -> None:
        self.reply: Reply = lambda body, number: (200, "No")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.bodies.append({"path": self.path, **body})
                stand_in.headers.append(dict(self.headers))
                status, said = stand_in.reply(body, len(stand_in.bodies))
                content = said if isinstance(said, bytes) else json.dumps({"choices": [{"message": {"content": said}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
