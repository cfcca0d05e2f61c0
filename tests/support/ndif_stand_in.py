"""A stand-in for NDIF in a process of its own: it holds one model and runs the jobs sent to it, as nnsight's protocol asks.

Started by `test_tracing_remote.py` as `python ndif_stand_in.py <model folder> <key>`; prints its port, serves until it is killed.
Like a real server it does not have this package, so a job that needs it and does not bring it fails.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import torch
import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.web
import tornado.websocket
import zstandard
from nnsight import TransformersModel
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.tracer import _saves, dec, inc
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.modules["safesteer_interp"] = None  # type: ignore[assignment]
FOLDER, KEY = sys.argv[1:]
MODEL = TransformersModel(
    AutoModelForCausalLM.from_pretrained(FOLDER).eval(), task="text-generation", tokenizer=AutoTokenizer.from_pretrained(FOLDER)
)
SOCKETS: dict[str, Any] = {}


def run(blob: bytes) -> dict[str, Any]:
    """What the job saved."""
    tracer = RequestModel.deserialize(blob, MODEL._remoteable_persistent_objects(), compress=True)
    frame = tracer.info.frame
    inc()
    try:
        tracer.execute(tracer.info.code)
        return {name: value for name, value in frame.f_locals.items() if id(value) in _saves()}
    finally:
        dec()


class Subscribe(tornado.websocket.WebSocketHandler):
    def open(self) -> None:
        session = f"session-{len(SOCKETS)}"
        SOCKETS[session] = self
        self.write_message(json.dumps({"session_id": session}))


class Job(tornado.web.RequestHandler):
    def post(self) -> None:
        given = self.request.headers.get("ndif-api-key", "")
        if given != KEY:
            self.set_status(401)
            self.finish({"detail": f"the key {given} is not known here"})
            return
        envelope = json.loads(self.get_body_argument("data"))
        socket = SOCKETS[envelope["session_id"]]
        buffer = io.BytesIO()
        with torch.no_grad():
            torch.save(run(self.request.files["blob"][0]["body"]), buffer)
        data = zstandard.ZstdCompressor().compress(buffer.getvalue())
        socket.write_message(ResponseModel(id="job", status=Status.COMPLETED, data=data).pickle(), binary=True)
        self.finish(ResponseModel(id="job", status=Status.RECEIVED, description=envelope["model_key"]).model_dump_json())


if __name__ == "__main__":
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/subscribe", Subscribe), ("/request", Job)]))
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    tornado.ioloop.IOLoop.current().start()
