"""Works on the jobs of one Ollama instance: SAQ runs them, queue.lua says what becomes of them."""

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
import time

try:
    import queue_openai
    import redis.asyncio
    from queue_store import address, config, prefix, scripts
    from redis.exceptions import RedisError, ResponseError
    from saq import Job, Queue, Status, Worker
except ImportError as error:
    sys.exit("%s: `ogen provision` brings what the queue runs on" % error)

LOG = logging.getLogger("ogen.queue")
PAUSE = 0.05  # seconds between two parcels of tokens
AT_ONCE = ("/api/embed", "/v1/embeddings")  # answers without a stream, and so without its last word
LONGEST = 16 * 1024 * 1024  # bytes of one line of an answer


class Lost(Exception):
    """The job is another worker's by now, or was cancelled."""


class Refused(Exception):
    """The instance says that the request is wrong: no try will help."""


class Broken(Exception):
    """The instance failed."""


class Pool(Queue):
    """One pool of the queue as SAQ sees it."""

    def __init__(self, client, settings, model):
        super().__init__(name=settings["queue"] + "/" + model, dump=None, load=None)
        self.client, self.model = client, model
        self.worker, self.lease, self.timeout = settings["worker"], settings["lease"], settings["timeout"]
        self.stopping = False
        self.prefix = prefix(settings["queue"], model)
        self.scripts = {name: client.register_script(text) for name, text in scripts().items()}
        self.reached = None  # since when Redis answers without a break

    async def call(self, name, *args):
        try:
            answer = await self.scripts[name](keys=[self.prefix], args=args)
        except ResponseError:  # it answers, if only that it is full
            raise
        except RedisError:
            self.reached = None
            raise
        self.reached = self.reached or time.monotonic()
        return answer

    async def surely(self, name, *args):
        """As `call`, over a restart of Redis: what was done must not be done again for want of a line."""
        for pause in (0.1, 0.2, 0.5, *[1.0] * 30):
            try:
                return await self.call(name, *args)
            except RedisError as error:
                LOG.warning("%s: %s", name, error)
                await asyncio.sleep(pause)
        return await self.call(name, *args)

    async def dequeue(self, timeout=0.0, poll_interval=0.0):
        try:
            found = await self.call("take", self.worker, int(self.lease * 1000))
            if found is None:
                await self.client.blpop([self.prefix + "bell"], 1)
            if found is None and not self.stopping:
                found = await self.call("take", self.worker, int(self.lease * 1000))
        except RedisError as error:
            full = "OOM" in str(error)
            LOG.warning("Redis: %s", "full: jobs wait until results expire" if full else error)
            await asyncio.sleep(0.5)
            return None
        return self._job(found) if found else None

    def _job(self, found):
        key, fence, attempt, tries, left, path, body = found
        return Job(
            "generate",
            kwargs={"path": path.decode(), "body": body.decode()},
            queue=self,
            key=key.decode(),
            timeout=min(int(left) / 1000 + 0.1, self.timeout) if int(left) else self.timeout,
            retries=int(tries),
            attempts=int(attempt) - 1,
            status=Status.QUEUED,
            meta={"fence": int(fence)},
        )

    async def _update(self, job, status=None, **kwargs):
        await self.beat(job, "")

    async def beat(self, job, said):
        if not await self.surely("beat", job.key, job.meta["fence"], int(self.lease * 1000), said):
            raise Lost(job.key)

    async def _finish(self, job, status, *, result=None, error=None):
        if status == Status.COMPLETE:
            await self.surely("finish", job.key, job.meta["fence"], json.dumps(result, ensure_ascii=False))
        else:
            await self._fail(job, error, "0")

    async def _retry(self, job, error):
        if error == "cancelled":  # the worker stops
            await self.surely("release", job.key, job.meta["fence"])
        else:
            await self._fail(job, error, "1")

    async def _fail(self, job, error, again):
        last = (error or "failed").strip().splitlines()[-1]
        if last.endswith("TimeoutError"):
            last = "Timeout: it took longer than it may"
        last = last.partition(": ")[2] or last  # a traceback's last line without the class
        LOG.warning("%s, try %d: %s", job.key, job.attempts, last)
        part = random.uniform(0.5, 1.0)  # noqa: S311 (it spreads tries)
        await self.surely("fail", job.key, job.meta["fence"], last[:2000], again, part)

    async def sweep(self, lock=60, abort=5.0):
        """After an outage of Redis its workers come back first: what they have is not lost."""
        if self.reached is not None and time.monotonic() - self.reached >= self.lease:
            await self.call("sweep")
        return []

    async def count(self, kind):
        return await self.client.zcard(self.prefix + ("running" if kind == "active" else "waiting"))

    async def info(self, jobs=False, offset=0, limit=10):
        return {"workers": {}, "name": self.name, "queued": 0, "active": 0, "scheduled": 0, "jobs": []}

    async def write_worker_info(self, worker_id, info, ttl):
        await self.call("here", self.worker)

    async def job(self, job_key):
        return None

    async def jobs(self, job_keys):
        return [None for _ in job_keys]

    async def iter_jobs(self, statuses=(), batch_size=100):
        for job in ():
            yield job

    async def _enqueue(self, job):
        raise NotImplementedError("jobs come in by the front")

    async def abort(self, job, error, ttl=5):
        raise NotImplementedError("jobs are cancelled by the front")

    async def disconnect(self):
        await self.client.aclose()


class Answers:
    """What an instance says to one request, put together as if it had not been streamed."""

    def __init__(self, openai=False):
        self.openai = openai  # in its form
        self.whole = {}
        self.fresh = []  # what has not been passed on
        self.ended = asyncio.Event()
        self.fault = None  # why it is not passed on any more

    def add(self, record):
        if "error" in record:
            raise Broken(queue_openai.reason(record["error"]))
        if self.openai:
            self.fresh.append(queue_openai.fold(self.whole, record))
            return
        self.fresh.append(_said(record))
        for name, value in record.items():
            if name == "message" and isinstance(value, dict):
                _joined(self.whole.setdefault("message", {}), value)
            elif name in ("response", "thinking"):
                self.whole[name] = self.whole.get(name, "") + (value or "")
            else:
                self.whole[name] = value

    def taken(self):
        said, self.fresh = "".join(self.fresh), []
        return said


def _joined(whole, part):
    for name, value in part.items():
        if name in ("content", "thinking"):
            whole[name] = whole.get(name, "") + (value or "")
        elif isinstance(value, list):
            whole[name] = whole.get(name, []) + value
        else:
            whole[name] = value


def _said(record):
    return record.get("response") or (record.get("message") or {}).get("content") or ""


async def ask(port, path, body):
    """The records that the instance answers with, one after another."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LONGEST)
    except OSError as error:
        raise Broken("the instance does not answer: %s" % error) from None
    try:
        data = body.encode()
        head = "POST %s HTTP/1.1\r\nHost: localhost:11434\r\nContent-Type: application/json\r\n" % path
        writer.write((head + "Content-Length: %d\r\nConnection: close\r\n\r\n" % len(data)).encode() + data)
        await writer.drain()
        status, chunked = await _head(reader)
        text = b""
        async for part in _parts(reader, chunked):
            *lines, text = (text + part).split(b"\n")
            if len(text) > LONGEST:
                raise Broken("the instance's answer is too long")
            for line in lines:
                if line.strip():
                    yield _record(status, line)
        if text.strip():
            yield _record(status, text)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise Broken("the instance's answer broke off: %s" % (error or type(error).__name__)) from None
    finally:
        writer.close()


async def _head(reader):
    first = (await reader.readline()).split(b" ", 2)
    if len(first) < 2:
        raise Broken("the instance closed the connection")
    status, chunked = int(first[1]), False
    while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
        chunked = chunked or line.lower().replace(b" ", b"").startswith(b"transfer-encoding:chunked")
    return status, chunked


async def _parts(reader, chunked):
    if not chunked:
        while part := await reader.read(65536):
            yield part
        return
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


def _record(status, line):
    record = queue_openai.record(line)
    if status == 200:
        return record
    said = queue_openai.reason(record.get("error") or "status %d" % status)
    if status in (408, 429) or status >= 500:
        raise Broken("the instance answers %d: %s" % (status, said))
    raise Refused("the instance answers %d: %s" % (status, said))


async def generate(context, path, body):
    """One job: what it says goes on as it comes, and tells that it is alive."""
    job, openai = context["job"], path.startswith(queue_openai.PREFIX)
    pool, answers = job.queue, Answers(openai)
    beating = asyncio.create_task(_beats(pool, job, answers, asyncio.current_task()))
    try:
        async for record in ask(context["worker"].port, path, body):
            answers.add(record)
    except Refused:
        job.retries = job.attempts
        raise
    except asyncio.CancelledError:
        if answers.fault is None:  # the worker stops, or it took too long
            raise
    finally:
        answers.ended.set()
        await beating
    if answers.fault is not None:
        raise answers.fault
    if path not in AT_ONCE and not answers.whole.get("done"):
        raise Broken("the instance's answer broke off")
    return queue_openai.result(answers.whole) if openai else answers.whole


async def _beats(pool, job, answers, task):
    """Passes tokens on, and renews the lease; ends the job's task where it is not ours any more."""
    last = time.monotonic()
    try:
        while not answers.ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answers.ended.wait(), PAUSE)
            if answers.fresh or time.monotonic() - last > pool.lease / 3:
                last = time.monotonic()
                await pool.beat(job, answers.taken())
    except (Lost, RedisError) as error:
        answers.fault = error
        if not answers.ended.is_set():
            task.cancel()


class Slots(Worker):
    """SAQ's worker for one model of the instance; signals are the program's."""

    SIGNALS = []  # noqa: RUF012 (SAQ's own)


def _stop(workers):
    """Ends what is running, and takes nothing more."""
    for worker in workers:
        worker.queue.stopping = True
        worker.event.set()


async def main(path):
    settings = config(path)
    url, more = address(settings["redis"])
    # nothing is waited for longer than a second: after that Redis' host may be gone without a word
    client = redis.asyncio.from_url(url, socket_connect_timeout=5, socket_timeout=5, **more)
    pools = [Pool(client, settings, pool["model"]) for pool in settings["pools"]]
    workers = []
    for pool, slots in zip(pools, settings["pools"], strict=True):
        LOG.info("%s: %d of its own to begin again", pool.name, await pool.surely("mine", pool.worker))
        worker = Slots(
            pool,
            [generate],
            id=settings["worker"],
            concurrency=slots["slots"],
            timers={"sweep": 2, "abort": 1, "schedule": 1, "worker_info": 2},  # a stop waits for these
            dequeue_timeout=1,
            shutdown_grace_period_s=settings["grace"],
        )
        worker.port = settings["port"]
        workers.append(worker)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, workers)
    await asyncio.gather(*(worker.start() for worker in workers))
    await client.aclose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("saq").setLevel(logging.CRITICAL)  # it writes whole requests into the log
    asyncio.run(main(sys.argv[1]))
