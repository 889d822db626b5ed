"""What is said in `vestal chat`: turns, the system message, and the lines that are commands. Pure.

A question counts only once it has an answer, so that roles alternate whatever goes wrong. Nothing is kept on disk
unless `/save` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal.cli.parser import nearest

__all__ = ["COMMANDS", "Conversation", "command_of"]

COMMANDS = {
    "help": "this list",
    "clear": "forget what was said; the system message stays",
    "system": "TEXT: set the system message; alone: show it, `/system -` takes it away",
    "model": "NAME: ask this model or backend from now on; alone: show those there are",
    "save": "FILE: write what was said, as JSON if the name ends so, else as Markdown",
    "quit": "end; so does Ctrl-D",
}


class Conversation:
    """The turns so far."""

    def __init__(self, system: str | None = None, model: str | None = None) -> None:
        self.system = system
        self.model = model
        self.turns: list[dict[str, str]] = []

    def asking(self, question: str) -> list[dict[str, str]]:
        """The messages to send for a new question."""
        return [*self.turns, {"role": "user", "content": question}]

    def answered(self, question: str, answer: str) -> None:
        """Keep both; an answer that says nothing is none, and leaves no trace."""
        if answer.strip():
            self.turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        self.turns.clear()

    def as_json(self) -> list[dict[str, str]]:
        """The messages of a request, the system message first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def as_markdown(self) -> str:
        names = {"system": "System", "user": "You", "assistant": "Answer"}
        return "\n".join(f"**{names[turn['role']]}**\n\n{turn['content']}\n" for turn in self.as_json())

    def __repr__(self) -> str:
        return f"<Conversation turns={len(self.turns)} model={self.model}>"


def command_of(line: str, known: Sequence[str] = tuple(COMMANDS)) -> tuple[str, str] | None:
    """`/name rest` as its two parts; None for a line that is for the model. `//` begins one with a slash.

    Raises `ValueError` for a command that is none.
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, rest = line[1:].partition(" ")
    if name not in known:
        near = nearest(f"/{name}", [f"/{one}" for one in known])
        raise ValueError(f"there is no command /{name}{near} (/help lists them; // begins a text)")
    return name, rest.strip()
