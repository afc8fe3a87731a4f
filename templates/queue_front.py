"""The queue's HTTP front, on a socket that nginx reaches: jobs come in, tokens and results go out."""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

try:
    import redis
    from queue_store import FINAL, RANKS, address, config, prefix, scripts
    from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
except ImportError as error:
    sys.exit("%s: `ogen provision` brings what the queue runs on" % error)

LOG = logging.getLogger("ogen.queue")
OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
PATHS = ("/api/generate", "/api/chat", "/api/embed", *OPENAI)
JOB = re.compile(r"/queue/jobs/([a-z0-9._-]{1,63}\.[0-9a-f]{32})(/events)?\Z")
SHOWN = ("state", "attempts", "submitted", "started", "finished", "error", "worker")


class Wrong(Exception):
    """An answer that is an error: status, words, more headers."""

    def __init__(self, status, text, **headers):
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class Store:
    """The jobs of all pools of one queue."""

    def __init__(self, settings):
        url, more = address(settings["redis"])
        self.settings = settings
        # longer than listeners wait for tokens
        self.client = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=10, **more)
        self.scripts = {name: self.client.register_script(text) for name, text in scripts().items()}

    def call(self, model, name, *args):
        return self.scripts[name](keys=[prefix(self.settings["queue"], model)], args=args)

    def names(self, model, kind, key=""):
        return prefix(self.settings["queue"], model) + kind + key

    def job(self, key):
        """The fields of a job as text, or None."""
        found = self.client.hgetall(self.names(key.rpartition(".")[0], "job:", key))
        return {name.decode(): value.decode() for name, value in found.items()} or None

    def submit(self, client, path, body, headers):
        """(ID, "new" or "known", state); raises Wrong where it is not taken."""
        asked = body.get("model")
        if not asked or not isinstance(asked, str):
            raise Wrong(400, "model is required")
        model = self.settings["names"].get(asked)
        if model is None:
            raise Wrong(404, "no queue has the model %r" % asked)
        text = json.dumps(self._clean(path, body, model), sort_keys=True, ensure_ascii=False)
        rank, deadline = _rank(headers), _deadline(headers)
        own = headers.get("Idempotency-Key")
        part = (
            hashlib.sha256(("%s\n%s" % (client, own)).encode()).hexdigest()[:32]
            if own
            else secrets.token_hex(16)
        )
        key = "%s.%s" % (model, part)
        digest = hashlib.sha256((path + "\n" + text).encode()).hexdigest()
        limits = self.settings["limits"]
        try:
            how, state = self.call(
                model, "submit", key, digest, client, rank, deadline, path, text, limits["length"],
                limits["tries"], int(limits["backoff"] * 1000), int(limits["expiry"]), limits["letters"],
            )  # fmt: skip
        except OutOfMemoryError:
            raise Wrong(429, "the queue's memory is full", Retry_After=self.wait(model)) from None
        except ResponseError as error:
            if "OOM" not in str(error):
                raise
            raise Wrong(429, "the queue's memory is full", Retry_After=self.wait(model)) from None
        how = how.decode()
        if how == "memory":
            raise Wrong(429, "the queue's memory is full", Retry_After=self.wait(model))
        if how == "full":
            raise Wrong(429, "the queue is full: %d jobs wait" % int(state), Retry_After=self.wait(model))
        if how == "closed":
            raise Wrong(503, "the queue is drained: it takes no jobs", Retry_After=60)
        if how == "conflict":
            raise Wrong(409, "this Idempotency-Key was used for another request")
        return key, how, state.decode()

    def _clean(self, path, body, model):
        """The request as a worker sends it: no client chooses what a model is loaded anew for."""
        # Ollama takes keys in any case
        own = ("model", "name", "stream", "stream_options", "keep_alive", "options")
        out = {name: value for name, value in body.items() if name.casefold() not in own}
        out["model"] = model
        if path == "/v1/embeddings":
            return out
        out["stream"] = True
        if path in OPENAI:  # its own words have no options; the last part of a stream tells the usage
            return {**out, "stream_options": {"include_usage": True}}
        options = [
            value for name, value in body.items() if name.casefold() == "options" and value is not None
        ]
        if any(not isinstance(value, dict) for value in options):
            raise Wrong(400, "'options' must be a map")
        if options:
            out["options"] = {
                n: v for value in options for n, v in value.items() if self._passes(n.casefold())
            }
        return out

    def _passes(self, option):
        allowed = self.settings["options"]
        return option in allowed if allowed is not None else option not in self.settings["not_options"]

    def wait(self, model):
        """Seconds until a place may be free, reckoned from how long jobs take."""
        with contextlib.suppress(RedisError):
            busy, done = self.client.hmget(self.names(model, "stats"), "busy_ms", "done")
            running = self.client.zcard(self.names(model, "running"))
            mean = int(busy or 0) / 1000 / max(1, int(done or 0))
            return max(1, min(60, int(mean / max(1, running) + 1)))
        return 5

    def sweep(self):
        """For ever: what ran out, also while no worker is up; after an outage workers come back first."""
        since = None
        while True:
            time.sleep(2)
            try:
                self.client.ping()
                since = since or time.monotonic()
                if time.monotonic() - since >= self.settings["lease"]:
                    for model in self.settings["pools"]:
                        self.call(model, "sweep")
            except RedisError:
                since = None

    def status(self):
        """What waits, runs and is dead in each pool."""
        return {model: self._pool(model) for model in self.settings["pools"]}

    def _pool(self, model):
        name, reader = (lambda kind: self.names(model, kind)), self.client
        now = time.time() * 1000
        first = [key for key, _ in reader.zrange(name("waiting"), 0, 0, withscores=True)]
        since = [reader.hget(self.names(model, "job:", key.decode()), "submitted") for key in first]
        return {
            "waiting": reader.zcard(name("waiting")),
            "delayed": reader.zcard(name("delayed")),
            "running": reader.zcard(name("running")),
            "dead": reader.zcard(name("dead")),
            "length": self.settings["limits"]["length"],
            "closed": bool(reader.exists(name("closed"))),
            "oldest_s": round(max(0.0, now - float(since[0])) / 1000, 1) if since and since[0] else 0.0,
            "workers": self.workers(model),
            "counts": {k.decode(): int(v) for k, v in sorted(reader.hgetall(name("stats")).items())},
        }

    def workers(self, model):
        """Seconds since each of the pool's workers was heard of."""
        found = self.client.zrange(self.names(model, "workers"), 0, -1, withscores=True)
        return {name.decode(): round(max(0.0, time.time() - when / 1000), 1) for name, when in found}

    def letters(self, model, most=0):
        """The ids of dead letters, oldest first: all, or the first of them."""
        return [key.decode() for key in self.client.zrange(self.names(model, "dead"), 0, most - 1)]

    def dead(self, model):
        return [{"id": key, **_shown(self.job(key) or {})} for key in self.letters(model, 100)]


def _shown(job):
    numbers = ("attempts", "submitted", "started", "finished")
    return {name: int(job[name]) if name in numbers else job[name] for name in SHOWN if name in job}


def _rank(headers):
    name = headers.get("X-Ogen-Priority") or "normal"
    if name not in RANKS:
        raise Wrong(400, "X-Ogen-Priority is high, normal or low")
    return RANKS[name]


def _deadline(headers):
    """Milliseconds; 0 for none."""
    text = headers.get("X-Ogen-Deadline")
    if text is None:
        return 0
    found = re.fullmatch(r"([0-9]{1,7})([smh])", text)
    if not found or not int(found[1]):
        raise Wrong(400, "X-Ogen-Deadline is a time such as 90s, 10m or 2h")
    return int(found[1]) * {"s": 1000, "m": 60_000, "h": 3_600_000}[found[2]]


class Handler(BaseHTTPRequestHandler):
    """One connection of nginx's, or of root's `ogen queue`."""

    protocol_version = "HTTP/1.0"
    server_version = "ogen"
    timeout = 60

    def address_string(self):
        return "nginx"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_DELETE(self):
        self._answer(self._delete)

    def _answer(self, what):
        try:
            what()
        except Wrong as wrong:
            self._json({"error": wrong.text}, wrong.status, wrong.headers)
        except RedisError as error:
            LOG.warning("Redis: %s", error)
            self._json({"error": "the queue's Redis does not answer"}, 503, {"Retry_After": 5})
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _json(self, value, status=200, headers=None):
        data = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        self.wfile.write(data)

    @property
    def store(self):
        return self.server.store

    @property
    def client(self):
        """Who asks, as nginx found out: the name of a key, or an address."""
        return self.headers.get("X-Ogen-Client") or "local"

    def _body(self):
        size = int(self.headers.get("Content-Length") or 0)
        if size > self.store.settings["limits"]["body"]:
            self._swallow(size)
            raise Wrong(413, "the request body is too large")
        try:
            found = json.loads(self.rfile.read(size))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Wrong(400, "the body is no JSON object")
        return found

    def _swallow(self, size):
        """Reads what is not wanted: else nginx would see a broken pipe in place of the answer."""
        while size > 0 and self.rfile.read(min(65536, size)):
            size -= 65536

    def _post(self):
        path, body = self.path.partition("?")[0], self._body()
        if path.startswith("/admin/"):
            self._admin(path[len("/admin/") :], body)
            return
        if not path.startswith("/queue/") or path[len("/queue") :] not in PATHS:
            raise Wrong(404, "not found")
        key, how, state = self.store.submit(self.client, path[len("/queue") :], body, self.headers)
        place = "/queue/jobs/" + key
        answer = {"id": key, "state": state, "job": place, "events": place + "/events"}
        self._json(answer, 202 if how == "new" else 200, {"Location": place})

    def _own(self):
        """The job that the path names, if it is this client's: of others' nothing is told."""
        found = JOB.match(self.path.partition("?")[0])
        job = self.store.job(found[1]) if found else None
        if job is None or job["client"] != self.client:
            raise Wrong(404, "no such job")
        return found[1], job, bool(found[2])

    def _get(self):
        if self.path.startswith("/admin/"):
            self._root()
        if self.path == "/admin/status":
            store = self.store
            self._json({"pools": store.status(), "memory": _memory(store.client)})
            return
        if self.path == "/admin/dead":
            self._json({model: self.store.dead(model) for model in self.store.settings["pools"]})
            return
        key, job, events = self._own()
        if events:
            self._events(key)
            return
        answer = {"id": key, **_shown(job)}
        if "result" in job:
            answer["result"] = json.loads(job["result"])
        self._json(answer)

    def _delete(self):
        key, _, events = self._own()
        if events:
            raise Wrong(404, "not found")
        if not self.store.call(key.rpartition(".")[0], "cancel", key):
            raise Wrong(409, "the job has ended")
        self._json({"id": key, "state": "cancelled"})

    def _events(self, key):
        """Server-sent events from the job's start on, or from what `Last-Event-ID` names."""
        if not self.server.room.acquire(blocking=False):
            raise Wrong(503, "too many listen", Retry_After=5)
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self._stream(key, self.headers.get("Last-Event-ID") or "0")
        finally:
            self.server.room.release()

    def _stream(self, key, last):
        if not re.fullmatch(r"[0-9]{1,20}(-[0-9]{1,20})?", last):
            last = "0"
        name = self.store.names(key.rpartition(".")[0], "out:", key)
        while True:
            found = self.store.client.xread({name: last}, count=500, block=5000)
            for place, entry in found[0][1] if found else ():
                last, kind = place.decode(), entry[b"k"].decode()
                if kind == "end":
                    break
                self._event(kind, {"text": entry[b"d"].decode()}, last)
            job = self.store.job(key)
            if job is None or job["state"] in FINAL:
                self._end(key, job)
                return
            if not found:
                self.wfile.write(b": waiting\n\n")  # a listener that left shows here

    def _end(self, key, job):
        shown = {"id": key, **_shown(job or {"state": "expired", "error": "forgotten"})}
        if job and "result" in job:
            shown["result"] = json.loads(job["result"])
        self._event("end", shown)

    def _event(self, kind, value, place=None):
        head = "id: %s\n" % place if place else ""
        text = json.dumps(value, ensure_ascii=False)
        self.wfile.write(("%sevent: %s\ndata: %s\n\n" % (head, kind, text)).encode())

    # ---- for root only: nginx passes on nothing of this
    def _root(self):
        """Whether root asks, or who runs this: nginx passes nothing on to these, and nobody else may ask."""
        peer = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", peer)[1] not in (0, os.geteuid()):
            raise Wrong(404, "not found")

    def _admin(self, what, body):
        self._root()
        store = self.store
        models = [body["model"]] if body.get("model") else store.settings["pools"]
        if any(model not in store.settings["pools"] for model in models):
            raise Wrong(404, "no queue has the model %r" % body["model"])
        if what in ("retry", "discard"):
            script, word = {"retry": ("again", "retried"), "discard": ("discard", "discarded")}[what]
            chosen = body.get("ids") or [key for model in models for key in store.letters(model)]
            done = [key for key in chosen if store.call(str(key).rpartition(".")[0], script, key)]
            self._json({word: done, "unknown": sorted(set(chosen) - set(done))})
        elif what in ("drain", "undrain"):
            for model in models:
                closed = store.names(model, "closed")
                store.client.set(closed, 1) if what == "drain" else store.client.delete(closed)
            self._json(store.status())
        else:
            raise Wrong(404, "not found")


def _memory(client):
    found = client.info("memory")
    return {"used_bytes": int(found["used_memory"]), "most_bytes": int(found.get("maxmemory") or 0)}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, path, store):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        super().__init__(path, Handler)
        os.chmod(path, 0o660)
        self.store = store
        self.room = threading.BoundedSemaphore(store.settings["listeners"])


def main(path):
    settings = config(path)
    store = Store(settings)
    threading.Thread(target=store.sweep, daemon=True).start()
    Server(settings["socket"], store).serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(sys.argv[1])
