"""An instance that answers jobs and writes down what it did: `queue_ollama.py PORT LOG SECONDS`.

The time that a job takes is its prompt's last word, times SECONDS, where that is a number.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, LOG, SECONDS = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
TOKENS = 4
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body.get("prompt") or body.get("input") or body["messages"][-1]["content"]
        self.note("begun", prompt, body)
        fault = prompt.split()[0]
        if fault in ("400", "500"):
            self.whole(int(fault), {"error": f"said to answer {fault}"})
            return
        if self.path.startswith("/v1/"):
            self.openai(prompt, body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(TOKENS):
            time.sleep(SECONDS * length(prompt) / TOKENS)
            if fault == "breaks" and number == 2:
                self.close_connection = True
                return
            text = f"{prompt}/{number} "
            said = (
                {"response": text}
                if "prompt" in body
                else {"message": {"role": "assistant", "content": text}}
            )
            self.chunk({"model": body["model"], **said, "done": False})
        self.note("ended", prompt, body)
        self.chunk({"model": body["model"], "done": True, "eval_count": TOKENS})
        self.wfile.write(b"0\r\n\r\n")

    def openai(self, prompt: str, body: dict[str, Any]) -> None:
        """Server-sent events as Ollama's own of /v1/ are; embeddings come at once."""
        if "input" in body:
            data = [{"object": "embedding", "embedding": [0.5, 1.0], "index": 0}]
            usage = {"prompt_tokens": 2, "total_tokens": 2}
            self.whole(200, {"object": "list", "data": data, "model": body["model"], "usage": usage})
            return
        chat = "messages" in body
        head = {"id": "cmpl-1", "object": "chat.completion.chunk" if chat else "text_completion"}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(TOKENS + 1):
            text = f"{prompt}/{number} " if number < TOKENS else ""
            if prompt.split()[0] == "breaks" and number == 2:
                self.close_connection = True
                return
            said: dict[str, Any] = (
                {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            if prompt.startswith("tool") and number == 0:
                said["delta"]["tool_calls"] = [{"index": 0, "id": "call_1"}]
            reason = "stop" if number == TOKENS else None
            choice = {"index": 0, **said, "finish_reason": reason}
            self.event(json.dumps({**head, "model": body["model"], "choices": [choice]}))
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 2, "completion_tokens": TOKENS, "total_tokens": 2 + TOKENS}
            self.event(json.dumps({**head, "model": body["model"], "choices": [], "usage": usage}))
        self.event("[DONE]")
        self.note("ended", prompt, body)
        self.wfile.write(b"0\r\n\r\n")

    def event(self, text: str) -> None:
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def chunk(self, record: dict[str, object]) -> None:
        data = json.dumps(record).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def whole(self, status: int, record: dict[str, object]) -> None:
        data = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def note(self, what: str, prompt: str, body: object) -> None:
        line = json.dumps(
            {"what": what, "prompt": prompt, "port": PORT, "at": time.monotonic(), "body": body}
        )
        with LOCK, Path(LOG).open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def length(prompt: str) -> float:
    try:
        return float(prompt.split()[-1])
    except ValueError:
        return 1.0


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", PORT), Handler)
    print("listening", os.getpid(), flush=True)
    server.serve_forever()
