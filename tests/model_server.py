"""An OpenAI-compatible server on loopback, by the standard library alone, that fails where a test says so."""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "user/small"
Answer = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""(path, body) → the answer."""


def written(text: str, **choice: Any) -> dict[str, Any]:
    """An answer with a text, whose words count as tokens."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split())}
    return {"choices": [{"message": message, "text": text, "finish_reason": "stop", **choice}], "usage": usage}


def echo(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer with the seed and the last message, so that each request has an answer of its own."""
    if path.endswith("/chat/completions"):
        return written(f"{body.get('seed')} {body['messages'][-1]['content']}")
    return written(f"{body.get('seed')} {body['prompt']}")


class Refusal(Exception):
    """The server refuses a request.

    Args:
        status: The HTTP status.
        answer: The body.
    """

    def __init__(self, status: int, answer: Any) -> None:
        self.status = status
        self.answer = answer if isinstance(answer, dict) else {"error": {"message": answer}}


class ModelServer:
    """A server that runs in threads of this process.

    Args:
        answer: What it answers to a request.
        owner: `owned_by` of its model, which tells its kind.
        faults: (number of the request, attempt), both from 0 → the fault: "429", "500", "503", "drop" before the
            answer, "half" of an answer, "cut" JSON, "slow"; or "". Equal bodies are attempts of one request.
        key: The key that it asks for.
        delay: Seconds that it takes for each answer.
    """

    def __init__(
        self,
        answer: Answer = echo,
        owner: str = "vllm",
        faults: Callable[[int, int], str] = lambda number, attempt: "",
        key: str = "",
        delay: float = 0.0,
    ) -> None:
        self.answer = answer
        self.owner = owner
        self.faults = faults
        self.key = key
        self.delay = delay
        self.model = MODEL
        self.retry_after = "0"
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.peak_in_flight = 0
        self._in_flight = 0
        self._attempts: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._port = 0
        self.start()

    def __enter__(self) -> "ModelServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = Server(("127.0.0.1", self._port), Handler)
        self._server.owner = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and drop those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.close_all()
            self._server.server_close()
            self._server = None

    def models(self) -> dict[str, Any]:
        return {"data": [{"id": MODEL, "owned_by": self.owner, "root": self.model}]}

    def enter(self, content: str) -> tuple[int, int]:
        """Count a request, and return its number and the number of its attempts so far."""
        with self._lock:
            self._in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
            number, attempts = self._attempts.get(content, (len(self._attempts), 0))
            self._attempts[content] = number, attempts + 1
            return number, attempts

    def leave(self) -> None:
        with self._lock:
            self._in_flight -= 1


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    owner: ModelServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none of this server's concern."""

    def close_all(self) -> None:
        for request in list(self._open):
            self.shutdown_request(request)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        owner: ModelServer = self.server.owner
        if not self._is_authorized(owner):
            return
        if self.path == "/v1/models":
            try:
                self._send(200, owner.models())
            except Refusal as refusal:
                self._send(refusal.status, refusal.answer)
        elif self.path == "/version":
            self._send(200, {"version": "1.2.3"})
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        owner: ModelServer = self.server.owner
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self._is_authorized(owner):
            return
        number, attempt = owner.enter(content)
        try:
            time.sleep(owner.delay)
            self._answer(owner, json.loads(content), owner.faults(number, attempt))
        finally:
            owner.leave()

    def _answer(self, owner: ModelServer, body: dict[str, Any], fault: str) -> None:
        if fault.isdigit():
            self._send(int(fault), {"error": {"message": "try later"}}, {"Retry-After": owner.retry_after})
        elif fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            if fault == "slow":
                time.sleep(1.0)
            owner.bodies.append(body)
            owner.paths.append(self.path)
            try:
                answer = owner.answer(self.path, body)
                if isinstance(body.get("prompt"), list) and "usage" in answer:
                    answer["usage"]["prompt_tokens"] = len(body["prompt"])
                self._send(200, answer, fault=fault)
            except Refusal as refusal:
                self._send(refusal.status, refusal.answer)

    def _is_authorized(self, owner: ModelServer) -> bool:
        if owner.key and self.headers["Authorization"] != f"Bearer {owner.key}":
            self._send(401, {"error": {"message": f"the key {self.headers['Authorization']} is wrong"}})
            return False
        return True

    def _send(self, status: int, answer: Any, headers: Mapping[str, str] | None = None, fault: str = "") -> None:
        content = json.dumps(answer).encode()
        length = len(content)
        if fault in ("half", "cut"):
            content = content[: length // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length if fault == "half" else len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if fault == "half":
            self.close_connection = True
