"""For tests of clients, of adapters and of what calls them: a scripted daemon, a scripted backend, a conformance kit.

Nothing here needs pytest. `check_backend` holds a backend to the port's promises; `ScriptedBackend` plays what a
test tells it to, for tests of what calls a backend; `ScriptedDaemon` does the same for tests of clients.
"""

from vestal.testing.backend import Play, ScriptedBackend, end
from vestal.testing.conformance import CHECKS, NotConforming, Outcome, Report, check_backend
from vestal.testing.daemon import Gone, Peer, Script, ScriptedDaemon, done, echo, status_report
from vestal.testing.subject import Outage

__all__ = [
    "CHECKS",
    "Gone",
    "NotConforming",
    "Outage",
    "Outcome",
    "Peer",
    "Play",
    "Report",
    "Script",
    "ScriptedBackend",
    "ScriptedDaemon",
    "check_backend",
    "done",
    "echo",
    "end",
    "status_report",
]
