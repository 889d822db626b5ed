"""Random histories of a scheduler, made from a seed, and books of our own that say after every step what must hold.

A `Scenario` is a seed and what follows from it: lanes, slots, callers and weights, sizes, cancels, deadlines, quotas,
backends that die and come back. A `Simulation` plays it: it knows every true size, keeps books that share no code
with the scheduler, and raises `Violation`, whose message has the seed that plays it again.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from vestal.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    QueueFull,
    QueueTimeout,
    QuotaExceeded,
    WireError,
)
from vestal.values import Priority
from vestald.admission.estimate import Spent
from vestald.admission.lane import AGEING, CLASSES
from vestald.admission.quota import MINUTE, Quotas
from vestald.admission.scheduler import Scheduler
from vestald.admission.ticket import Ticket, TicketState

__all__ = ["Scenario", "Simulation", "Violation"]

_SLACK = 1e-6  # of tokens and seconds, for sums in another order
_MOST_WRONG = 5.0  # times the true size, that an estimate may be
Pair = tuple[str, Priority, int, int]  # in a lane and class: a caller who waits, and any other


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Scenario:
    """What a seed means. With `exact` there is one slot a lane and every estimate is true, as in the paper."""

    seed: int
    exact: bool
    lanes: dict[str, int]
    weights: dict[int, float]
    depth: int
    per_caller: int
    quota: int
    unavailable_timeout: float | None
    gap: float  # mean seconds between arrivals
    speed: float  # tokens made a second in each slot; five times as many are read
    sizes: tuple[float, ...]
    classes: tuple[Priority, ...]
    sleeper: int | None  # a caller that comes when the others have been busy for half of the time
    steps: int

    @classmethod
    def of(cls, seed: int, steps: int = 80) -> Scenario:
        random = Random(seed)
        exact = random.random() < 0.4
        depth = random.choice([3, 10, 40])
        return cls(
            seed=seed,
            exact=exact,
            lanes={name: 1 if exact else random.randint(1, 4) for name in "ab"[: random.randint(1, 2)]},
            weights={uid: random.choice([1.0, 1.0, 2.0, 0.5]) for uid in range(random.randint(1, 4))},
            depth=depth,
            per_caller=random.choice([depth, max(1, depth // 2)]),
            quota=random.choice([0, 0, 0, 600]),
            unavailable_timeout=random.choice([None, 3.0, 15.0]),
            gap=random.choice([0.1, 0.5, 2.0]),
            speed=random.choice([20.0, 100.0, 1000.0]),
            sizes=tuple(random.choice([1.0, 10.0, 50.0, 200.0]) for _ in range(4)),
            classes=random.choice([CLASSES, ("normal",)]),
            sleeper=random.choice([None, None, 0]),
            steps=steps,
        )


@dataclass
class Books:
    """What is known without asking the scheduler."""

    waiting: dict[int, Ticket] = field(default_factory=dict)
    running: dict[int, Ticket] = field(default_factory=dict)
    ends: Counter[int] = field(default_factory=Counter)
    since: dict[tuple[str, Priority], float] = field(default_factory=dict)
    served: defaultdict[tuple[str, Priority, int], float] = field(default_factory=lambda: defaultdict(float))
    ahead: dict[Pair, float] = field(default_factory=dict)  # the least that another was ahead of one who waits
    spent: list[tuple[float, int, float]] = field(default_factory=list)  # (when, uid, tokens)
    shut: dict[str, float] = field(default_factory=dict)  # lanes that are away, and since when

    def backlog(self, lane: str, priority: Priority) -> list[Ticket]:
        return [t for t in self.waiting.values() if t.lane == lane and t.priority == priority]


class Simulation:
    """One scenario, played on a scheduler that `make` builds."""

    def __init__(self, scenario: Scenario, make: Callable[..., Scheduler] = Scheduler) -> None:
        self.scenario = scenario
        self.random = Random(f"{scenario.seed} plays")
        self.scheduler = make(
            queue_depth=scenario.depth,
            per_caller=scenario.per_caller,
            weight_of=scenario.weights.__getitem__,
            quotas=Quotas(lambda _uid: scenario.quota),
            unavailable_timeout=scenario.unavailable_timeout,
        )
        self.books = Books()
        self.now = 0.0
        self.step = 0
        self.seen: Counter[str] = Counter()  # what has happened how often: a simulation must not pass by doing nothing
        self._numbers = itertools.count(1)
        self._true: dict[int, tuple[float, float]] = {}  # tokens read and made
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for name, slots in scenario.lanes.items():
            self.scheduler.open_lane(name, slots)

    # --- playing ----------------------------------------------------------------------------------------------

    def run(self) -> Counter[str]:
        """Play to the end, drain, and return what happened how often."""
        self._later(0.0, self._arrive)
        self._later(self.random.expovariate(0.05), self._die)
        while self._events and self.step < self.scenario.steps:
            self._next()
        self._drain()
        return self.seen

    def _next(self) -> None:
        self.step += 1
        deadline = self.scheduler.next_deadline()
        if deadline is not None and deadline <= self._events[0][0]:
            self.now = max(self.now, deadline)
        else:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self._advance()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), act))

    def _arrive(self) -> None:
        self._later(self.random.expovariate(1 / self.scenario.gap), self._arrive)
        for _ in range(self.random.choice([1, 1, 1, 6])):
            self._submit(self._make())
            self._advance()
        if self.random.random() < 0.2 and (live := [*self.books.waiting.values(), *self.books.running.values()]):
            self._finish(self.random.choice(live), cancelled=True)

    def _make(self) -> Ticket:
        random, scenario = self.random, self.scenario
        awake = [uid for uid in scenario.weights if uid != scenario.sleeper or 2 * self.step > scenario.steps]
        uid, number = random.choice(awake or [0]), next(self._numbers)
        read, made = scenario.sizes[uid] * random.uniform(0.5, 1.0), scenario.sizes[-1 - uid] * random.uniform(0, 1)
        guess = 1.0 if scenario.exact else random.choice([0.2, 1.0, _MOST_WRONG])
        self._true[number] = (read, made)
        return Ticket(
            number,
            random.choice(list(scenario.lanes)),
            uid,
            random.randrange(3),
            cost=(read + made) * guess,
            output=made * guess,
            priority=random.choice(scenario.classes),
            accepted=self.now,
            queue_timeout=random.choice([None, None, 1.0, 20.0]),
            timeout=random.choice([None, None, 30.0]),
        )

    def _submit(self, ticket: Ticket) -> None:
        books, scenario = self.books, self.scenario
        used = self._used_in_a_minute(ticket.uid)
        fits = not scenario.quota or used + min(ticket.cost, scenario.quota) <= scenario.quota + _SLACK
        full = self._is_full(ticket)
        first = not books.backlog(ticket.lane, ticket.priority)
        try:
            self.scheduler.submit(ticket, self.now)
        except WireError as error:
            self._refused(ticket, error, full=full, fits=fits)
            return
        self._hold(not full, f"{ticket} was taken into a full queue")
        self._hold(fits, f"{ticket} was taken beyond its quota: {used} used")
        self.seen["taken"] += 1
        books.waiting[ticket.number] = ticket
        if first:
            books.since[ticket.lane, ticket.priority] = self.now

    def _refused(self, ticket: Ticket, error: WireError, *, full: bool, fits: bool) -> None:
        self.seen[error.code] += 1
        self._hold(ticket.number not in self.books.ends, f"{ticket} ended before it was refused")
        if isinstance(error, QueueFull):
            self._hold(full, f"{ticket} was refused by a queue that has room")
            self._hold((error.retry_after_ms or 0) > 0, "a full queue does not say when to come back")
        elif isinstance(error, QuotaExceeded):
            self._hold(not fits, f"{ticket} was refused within its quota")
        elif isinstance(error, QueueTimeout | DeadlineExceeded):
            self._hold(error.details["eta_ms"] >= error.details["limit_ms"], f"{ticket} would start in time")
            self._hold(ticket.lane not in self.books.shut, f"{ticket} was refused by an estimate that nobody has")
        else:
            self._hold(self._lost(ticket.lane), f"{ticket} was refused by a lane that may come back: {error}")

    def _is_full(self, ticket: Ticket) -> bool:
        books, scenario = self.books, self.scenario
        queue = any(t.lane == ticket.lane for t in books.waiting.values())
        busy = sum(t.lane == ticket.lane for t in books.running.values()) >= scenario.lanes[ticket.lane]
        mine = sum(t.uid == ticket.uid for t in books.waiting.values())
        must_wait = queue or busy or ticket.lane in books.shut
        return must_wait and (len(books.waiting) >= scenario.depth or mine >= scenario.per_caller)

    def _finish(self, ticket: Ticket, *, cancelled: bool = False) -> None:
        """It ends now: by itself with all its tokens, or cut with some of them."""
        books = self.books
        if books.ends[ticket.number]:
            return
        (read, made), speed = self._true[ticket.number], self.scenario.speed
        if books.running.pop(ticket.number, None) is not None:
            made *= self.random.random() if cancelled and not self.scenario.exact else 1.0
            ticket.used = ticket.cost if self.scenario.exact else read + made
            ticket.spent = Spent(read, read / speed / 5, made, made / speed)
            books.spent.append((self.now, ticket.uid, ticket.used))
            self._serve(ticket, ticket.used - ticket.cost)
        else:
            del books.waiting[ticket.number]
        self.seen["cancelled" if cancelled else "completed"] += 1
        books.ends[ticket.number] += 1
        self.scheduler.end(ticket, self.now)
        self.scheduler.end(ticket, self.now)  # idempotent
        self._keep_pairs()

    def _die(self) -> None:
        """A backend goes, with what it runs; it comes back, or is given up and restarted later."""
        self._later(self.random.expovariate(0.05), self._die)
        name = self.random.choice(list(self.scenario.lanes))
        if name in self.books.shut:
            return
        self.seen["died"] += 1
        self.books.shut[name] = self.now
        self.scheduler.shut_lane(name, self.now)
        for ticket in [t for t in self.books.running.values() if t.lane == name]:
            self._finish(ticket, cancelled=True)
        if self.random.random() < 0.2:
            self.books.shut[name] = float("-inf")
            self.scheduler.fail_lane(name, "its worker died six times")
        self._later(self.random.expovariate(0.2), lambda: self._return(name))

    def _return(self, name: str) -> None:
        self.seen["returned"] += 1
        self.books.shut.pop(name, None)
        self.scheduler.open_lane(name, self.scenario.lanes[name])

    def _drain(self) -> None:
        """Nothing comes any more, every backend is back: all that was taken must end."""
        for name in self.scenario.lanes:
            self._return(name)
        self._advance()
        while self.books.running:
            self.step += 1
            self.now += 0.1
            self._finish(next(iter(self.books.running.values())))
            self._advance()
        self._hold(not self.books.waiting, f"{len(self.books.waiting)} wait for ever")
        self._hold(set(self.books.ends.values()) <= {1}, "something ended twice")
        self._hold(len(self.books.ends) == self.seen["taken"], "something was lost")

    # --- what must hold ---------------------------------------------------------------------------------------

    def _advance(self) -> None:
        started, ended = self.scheduler.advance(self.now)
        for ticket, error in ended:
            self._ended(ticket, error)
        self._keep_pairs()
        for ticket in started:
            self._started(ticket)
        self._check()

    def _ended(self, ticket: Ticket, error: WireError) -> None:
        self.seen[f"{error.code} while waiting"] += 1
        self._hold(self.books.waiting.pop(ticket.number, None) is ticket, f"{ticket} ended and did not wait")
        self.books.ends[ticket.number] += 1
        if isinstance(error, QueueTimeout):
            self._hold((ticket.queue_deadline or 0.0) <= self.now, f"{ticket} ended before its deadline")
        else:
            self._hold(isinstance(error, BackendUnavailable), f"{ticket} ended by {error!r}")
            self._hold(self._lost(ticket.lane), f"{ticket} was let go too early")

    def _started(self, ticket: Ticket) -> None:
        books, lane = self.books, ticket.lane
        self._hold(ticket.number in books.waiting, f"{ticket} started and did not wait")
        self._hold(ticket.queue_deadline is None or self.now < ticket.queue_deadline, f"{ticket} started too late")
        self._hold(lane not in books.shut, f"{ticket} started on a backend that is away")
        backlog = books.backlog(lane, ticket.priority)
        mine = next(t for t in backlog if t.keys == ticket.keys)
        self._hold(mine is ticket, f"{ticket} overtook {mine} of the same connection")
        self._check_class(ticket)
        books.since[lane, ticket.priority] = self.now
        del books.waiting[ticket.number]
        books.running[ticket.number] = ticket
        (read, made), speed = self._true[ticket.number], self.scenario.speed
        self._later(read / speed / 5 + made / speed, lambda: self._finish(ticket))
        self._serve(ticket, ticket.cost)
        self._keep_pairs()

    def _check_class(self, ticket: Ticket) -> None:
        """The oldest of the classes that have aged, else the highest that waits."""
        lane, since = ticket.lane, self.books.since
        backlogged = [cls for cls in CLASSES if self.books.backlog(lane, cls)]
        aged = [cls for cls in backlogged if self.now - since[lane, cls] >= AGEING]
        if aged:
            oldest = min(since[lane, cls] for cls in aged)
            self._hold(since[lane, ticket.priority] == oldest, f"{ticket} started while {aged[0]} starves")
            self.seen["aged"] += ticket.priority != backlogged[0]
        else:
            self._hold(ticket.priority == backlogged[0], f"{ticket} started before {backlogged[0]}")

    def _serve(self, ticket: Ticket, tokens: float) -> None:
        """Charge a caller, and look how far it is ahead of every other that has waited all the while."""
        books, (lane, priority, uid) = self.books, (ticket.lane, ticket.priority, ticket.uid)
        books.served[lane, priority, uid] += tokens / self.scenario.weights[uid]
        for other in self.scenario.weights:
            for pair in ((lane, priority, uid, other), (lane, priority, other, uid)):
                if pair not in books.ahead:
                    continue
                ahead = self._ahead(pair)
                books.ahead[pair] = min(books.ahead[pair], ahead)
                gained, bound = ahead - books.ahead[pair], self._bound(pair)
                what = f"caller {pair[3]} got {gained:.1f} more than {pair[2]}, who waits; the bound is {bound:.1f}"
                self._hold(gained <= bound + _SLACK, what)

    def _ahead(self, pair: Pair) -> float:
        lane, priority, waits, other = pair
        return self.books.served[lane, priority, other] - self.books.served[lane, priority, waits]

    def _bound(self, pair: Pair) -> float:
        """SFQ's for one slot and true estimates; with more, what is in flight can be wrong by that much again."""
        scenario = self.scenario
        largest = {
            uid: (scenario.sizes[uid] + scenario.sizes[-1 - uid]) / weight for uid, weight in scenario.weights.items()
        }
        if scenario.exact:
            return largest[pair[2]] + largest[pair[3]]
        return 4 * (scenario.lanes[pair[0]] + 1) * _MOST_WRONG * max(largest.values())

    def _keep_pairs(self) -> None:
        """Forget those who wait no more, and begin with those who now do."""
        books = self.books
        backlogged = {(t.lane, t.priority, t.uid) for t in books.waiting.values()}
        for gone in [pair for pair in books.ahead if pair[:3] not in backlogged]:
            del books.ahead[gone]
        for lane, priority, uid in backlogged:
            for pair in ((lane, priority, uid, other) for other in self.scenario.weights if other != uid):
                if pair not in books.ahead:
                    books.ahead[pair] = self._ahead(pair)

    def _check(self) -> None:
        scheduler, books = self.scheduler, self.books
        waiting = Counter(t.lane for t in books.waiting.values())
        running = Counter(t.lane for t in books.running.values())
        self._hold(scheduler.waiting == len(books.waiting) <= self.scenario.depth, f"{scheduler} waits too much")
        self._hold(scheduler.running == len(books.running), f"{scheduler} runs {len(books.running)}")
        mine = Counter(t.uid for t in books.waiting.values())
        self._hold(max(mine.values(), default=0) <= self.scenario.per_caller, f"a caller has {mine} waiting")
        for name, slots in self.scenario.lanes.items():
            lane = scheduler.lanes[name]
            self._hold(lane.waiting == waiting[name], f"{lane} has {waiting[name]} waiting")
            self._hold(running[name] <= slots, f"{lane} runs {running[name]}")
            idle = name not in books.shut and waiting[name] and running[name] < slots
            self._hold(not idle, f"{lane} is idle beside {waiting[name]} that wait")
            self._hold(not (waiting[name] and self._lost(name)), f"{lane} keeps those who wait in vain")
        self._hold(all(t.state is TicketState.WAITING for t in books.waiting.values()), "a state is wrong")
        self._check_positions(scheduler.positions(self.now))

    def _check_positions(self, positions: Iterable[tuple[Ticket, int, float | None]]) -> None:
        told: defaultdict[str, list[tuple[int, float | None]]] = defaultdict(list)
        numbers = []
        for ticket, position, wait in positions:
            told[ticket.lane].append((position, wait))
            numbers.append(ticket.number)
        self._hold(sorted(numbers) == sorted(self.books.waiting), "not everybody has one position")
        for lane, places in told.items():
            self._hold([place for place, _ in places] == list(range(1, len(places) + 1)), f"{lane}: {places}")
            waits = [wait for _, wait in places if wait is not None]
            self._hold(waits == sorted(waits) and all(wait >= 0 for wait in waits), f"{lane}: {waits}")

    def _used_in_a_minute(self, uid: int) -> float:
        books = self.books
        live = (t.cost for t in (*books.waiting.values(), *books.running.values()) if t.uid == uid)
        return sum(live) + sum(used for when, who, used in books.spent if who == uid and when > self.now - MINUTE)

    def _lost(self, lane: str) -> bool:
        since, timeout = self.books.shut.get(lane), self.scenario.unavailable_timeout
        if since is None:
            return False
        return since == float("-inf") or (timeout is not None and self.now >= since + timeout)

    def _hold(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"seed {self.scenario.seed}, step {self.step}, {self.now:.3f} s: {what}")
