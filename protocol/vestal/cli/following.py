"""What happens in the daemon, for a command that waits for some of it and has something else to do meanwhile."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

from vestal import AdminClient, ConnectionLost, Event, VestalError

__all__ = ["Following"]


class Following:
    """The daemon's events from now on. They are read in a thread of its own, so that waiting for one can end."""

    def __init__(self, client: AdminClient) -> None:
        self._events = client.subscribe()
        next(self._events)  # the snapshot: what happens after this is told
        self._inbox: SimpleQueue[Event | VestalError] = SimpleQueue()
        self._reader = Thread(target=self._read, name="events")
        self._reader.start()

    def next(self, timeout: float) -> Event | None:
        """The next event, or None if there is none in so many seconds. Raises `ConnectionLost` once the daemon goes."""
        try:
            found = self._inbox.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(found, VestalError):
            raise found
        return found

    def _read(self) -> None:
        try:
            for event in self._events:
                if isinstance(event, Event):
                    self._inbox.put(event)
            self._inbox.put(ConnectionLost("it has stopped"))
        except VestalError as loss:
            self._inbox.put(loss)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        self._reader.join()

    def __repr__(self) -> str:
        return f"<Following {self._events!r} unread={self._inbox.qsize()}>"
