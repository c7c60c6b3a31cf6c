"""The queue: who is let in, and who is next.

A request is let in only if it will be answered within its time limit, as predicted from what waits and from the rates
of the last batches. API keys take turns; so do the requests of a key, and the graphs that its requests need. A long
request is cut into pieces, so that it does not hold up the requests behind it. Taking turns delays those in front.
So in the turn of a key, a request that has waited for a share of its time goes before younger ones; and a key with a
request that has waited for a larger share goes before the other keys. As what waits is bounded, so is that delay.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from weakref import WeakKeyDictionary

from ese_deploy.server.catalog import Lane
from ese_deploy.server.jobs import Job, Pieces

__all__ = ["Queue", "QueueFullError", "retry_after"]

# Pieces of one request in a batch, if other requests wait.
_TURNS = 4
# Shares of a request's time limit. What waits of its own key, and of all keys, may take so long.
_OWN_SHARE = 0.35
_WHOLE_SHARE = 0.5
# After so long it goes before younger requests of its key, and its key before other keys. The second and the fourth
# together are below 1, and without other keys there is room for batches that are slower than predicted.
_DUE_SHARE = 0.15
_OVERDUE_SHARE = 0.45
# Requests that are looked at to fill a batch of due ones.
_DUE_LOOK = 512
# After so many full batches the older ones count little in the rate of a graph. The slower of both rates is expected: a
# machine that becomes slower is noticed at once, and one that was slower a while ago may be so again.
_MEMORIES = (4.0, 64.0)


class QueueFullError(Exception):
    """The queue has no room.

    Attributes:
        seconds: when it will have room, at the rate of the last batches.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"room in {seconds:.1f} s")
        self.seconds = seconds


class _Rate:
    """Time and tokens of the last batches of a graph."""

    def __init__(self) -> None:
        self._sums = [(0.0, 0.0) for _ in _MEMORIES]

    def add(self, seconds: float, tokens: int, full: int) -> None:
        """Count a batch; ``full`` is the number of tokens of a full one."""
        kept = [math.exp(-tokens / (memory * full)) for memory in _MEMORIES]
        sums = zip(self._sums, kept, strict=True)
        self._sums = [(old * share + seconds, count * share + tokens) for (old, count), share in sums]

    @property
    def cost(self) -> float:
        """Seconds of a token."""
        return max(seconds / tokens for seconds, tokens in self._sums)


class Queue:
    """What waits. Not for several threads at once.

    Args:
        limit: most tokens that wait.
        timeout: seconds that a request may take, for requests that are not here yet.
        clock: the time in seconds.
    """

    def __init__(self, limit: int, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._timeout = timeout
        self._clock = clock
        # Of each client, its jobs by the graph that they need. Clients and graphs take turns from the front.
        self._clients: OrderedDict[str, OrderedDict[Lane, OrderedDict[Job, None]]] = OrderedDict()
        # Of each client, the jobs that are promised an answer in time, the oldest first.
        self._promised: dict[str, OrderedDict[Job, None]] = {}
        self._tokens: dict[str, dict[Lane, int]] = {}
        self._long: Job | None = None
        self._long_was_next = False
        self.waiting_tokens = 0
        self.waiting_texts = 0
        self._batch_ends: float | None = None
        # Weak: a lane that a reload has replaced must not stay in memory.
        self._rates: WeakKeyDictionary[Lane, _Rate] = WeakKeyDictionary()

    def __bool__(self) -> bool:
        return bool(self._clients)

    @property
    def fill(self) -> float:
        """Share of the queue that is in use: of the tokens, or of the time."""
        return max(self.waiting_tokens / self._limit, self._seconds() / (self._timeout * _OWN_SHARE))

    def check(self, client: str) -> None:
        """Refuse a client's next request before it is read.

        Raises:
            QueueFullError: even a request without texts would be refused.
        """
        if self._clients:
            self._refuse(client, 0.0, 1, self._timeout)

    def add(self, job: Job) -> None:
        """Let a job in. Into an empty queue, any job is let in.

        Raises:
            QueueFullError: too many tokens wait, or would make it wait too long.
        """
        now, own = self._clock(), job.tokens * self._cost(job.target.lane)
        left = job.deadline - now
        job.long = own > left * _OWN_SHARE
        if self._clients:
            self._refuse(job.client, own, job.tokens, left)
        job.due, job.overdue = now + left * _DUE_SHARE, now + left * _OVERDUE_SHARE
        if job.long:
            self._long = job
        else:
            self._promised.setdefault(job.client, OrderedDict())[job] = None
        lanes = self._clients.setdefault(job.client, OrderedDict())
        lanes.setdefault(job.target.lane, OrderedDict())[job] = None
        self._account(job, job.tokens, len(job.encodings))

    def remove(self, job: Job) -> None:
        """Leave the rest of a job out."""
        if not job.abandoned and job.waiting_texts:
            self._account(job, -job.waiting, -job.waiting_texts)
            self._leave(job)
        job.abandoned = True

    def take(self) -> tuple[Lane, Pieces]:
        """The pieces of the next batch. The queue must not be empty."""
        now = self._clock()
        pieces: Pieces = []
        client = self._next_client(now)
        due = next(iter(self._promised.get(client, ())), None)
        if due is None or now < due.due:
            lane = next(iter(self._clients[client]))
        else:
            lane = self._take_due(client, due.target.lane, pieces)
        self._take_turns(lane, lane.tokens - _tokens(pieces), pieces)
        if client in self._clients:
            if lane in self._clients[client]:
                self._clients[client].move_to_end(lane)
            self._clients.move_to_end(client)
        self._batch_ends = now + _tokens(pieces) * self._cost(lane)
        return lane, pieces

    def done(self, lane: Lane, tokens: int, seconds: float | None) -> None:
        """A batch was computed in this time; None: it failed."""
        self._batch_ends = None
        if seconds is not None:
            rate = self._rates.setdefault(lane, _Rate())
            rate.add(seconds, tokens, lane.tokens)

    def _cost(self, lane: Lane) -> float:
        """Seconds of a token."""
        rate = self._rates.get(lane)
        return lane.warm_cost if rate is None else rate.cost

    def _seconds(self, client: str | None = None) -> float:
        """How long what waits takes, of one client or of all, without a long job."""
        held = self._tokens.values() if client is None else [self._tokens.get(client, {})]
        return sum(count * self._cost(lane) for lanes in held for lane, count in lanes.items())

    def _refuse(self, client: str, own: float, tokens: int, left: float) -> None:
        """Raise :class:`QueueFullError` if a job of ``own`` seconds cannot be answered within ``left`` seconds."""
        whole = self._seconds()
        excess = min(self.waiting_tokens, self.waiting_tokens + tokens - self._limit)
        if excess > 0:
            raise QueueFullError((whole + self._long_seconds) * excess / self.waiting_tokens)
        if own > left * _OWN_SHARE:
            # Nothing can be promised: it has to wait for an empty queue.
            raise QueueFullError(whole + self._long_seconds)
        slower = 1.0 if self._long is None else 2.0
        # A batch that is overdue is expected to take as long again.
        running = 0.0 if self._batch_ends is None else abs(self._batch_ends - self._clock())
        turns = len(self._clients.keys() | {client})
        mine = min(turns * (self._seconds(client) + own), whole + own)
        waits = ((mine, _OWN_SHARE), (whole + own, _WHOLE_SHARE))
        if any(running + slower * wait > left * share for wait, share in waits):
            # The next try has the whole time limit.
            raise QueueFullError(max(running + slower * wait - self._timeout * share for wait, share in waits))

    @property
    def _long_seconds(self) -> float:
        return 0.0 if self._long is None else self._long.waiting * self._cost(self._long.target.lane)

    def _account(self, job: Job, tokens: int, texts: int) -> None:
        self.waiting_tokens += tokens
        self.waiting_texts += texts
        if job.long:
            return
        lanes, lane = self._tokens.setdefault(job.client, {}), job.target.lane
        lanes[lane] = lanes.get(lane, 0) + tokens
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._tokens[job.client]

    def _leave(self, job: Job) -> None:
        """Drop a job of which nothing waits any more."""
        lanes, lane = self._clients[job.client], job.target.lane
        del lanes[lane][job]
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._clients[job.client]
        if job is self._long:
            self._long = None
            return
        promised = self._promised[job.client]
        del promised[job]
        if not promised:
            del self._promised[job.client]

    def _next_client(self, now: float) -> str:
        """The client whose turn it is, or the one with the oldest request if that is overdue."""
        oldest = min((next(iter(jobs)) for jobs in self._promised.values()), key=lambda job: job.overdue, default=None)
        return oldest.client if oldest is not None and now >= oldest.overdue else next(iter(self._clients))

    def _take_piece(self, job: Job, tokens: int, pieces: Pieces) -> int:
        """Take a piece of a job; returns its tokens."""
        rows = job.take(tokens)
        taken = int(job.lengths[rows].sum())
        self._account(job, -taken, -len(rows))
        pieces.append((job, rows))
        if not job.waiting_texts:
            self._leave(job)
        return taken

    def _take_due(self, client: str, lane: Lane, pieces: Pieces) -> Lane:
        """The oldest requests of a client; a long one of it has every second batch meanwhile."""
        self._long_was_next = not self._long_was_next
        if self._long is not None and self._long.client == client and self._long_was_next:
            lane = self._long.target.lane
            self._take_piece(self._long, lane.tokens, pieces)
            return lane
        left = lane.tokens
        for job in list(islice(self._promised[client], _DUE_LOOK)):
            if job.target.lane is lane and left > 0:
                left -= self._take_piece(job, left, pieces)
        return lane

    def _take_turns(self, lane: Lane, left: int, pieces: Pieces) -> None:
        """Fill a batch up with pieces of the clients in turn."""
        turns = deque(client for client, lanes in self._clients.items() if lane in lanes)
        while turns and left > 0:
            client = turns.popleft()
            line = self._clients[client][lane]
            job = next(iter(line))
            left -= self._take_piece(job, min(left, max(1, lane.tokens // _TURNS)), pieces)
            if job.waiting_texts:
                line.move_to_end(job)
            if line:
                turns.append(client)


def _tokens(pieces: Pieces) -> int:
    return sum(int(job.lengths[rows].sum()) for job, rows in pieces)


def retry_after(error: QueueFullError) -> str:
    """The value of the header ``Retry-After``."""
    return str(max(1, math.ceil(error.seconds)))
