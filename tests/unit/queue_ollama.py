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

PORT, LOG, SECONDS = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
TOKENS = 4
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        self.note("begun", prompt, body)
        fault = prompt.split()[0]
        if fault in ("400", "500"):
            self.whole(int(fault), {"error": f"said to answer {fault}"})
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
