"""A conversation: what is sent with a question, what is kept, and which lines are commands."""

from __future__ import annotations

import pytest

from vestal.cli.conversation import COMMANDS, Conversation, command_of


def test_a_question_is_sent_with_all_that_was_answered_before() -> None:
    said = Conversation(system="be brief")
    assert said.asking("one?") == [{"role": "user", "content": "one?"}]
    said.answered("one?", "1")
    assert [turn["content"] for turn in said.asking("two?")] == ["one?", "1", "two?"]
    assert [turn["role"] for turn in said.as_json()] == ["system", "user", "assistant"]
    said.clear()
    assert said.asking("three?") == [{"role": "user", "content": "three?"}]
    assert said.system == "be brief"


def test_an_answer_that_says_nothing_leaves_no_trace_so_that_roles_alternate() -> None:
    said = Conversation()
    said.answered("one?", " \n")
    assert said.turns == []


def test_what_was_said_as_markdown() -> None:
    said = Conversation(system="be brief")
    said.answered("one?", "1")
    assert said.as_markdown() == "**System**\n\nbe brief\n\n**You**\n\none?\n\n**Answer**\n\n1\n"


def test_lines_that_begin_with_a_slash_are_commands() -> None:
    assert command_of("why?") is None
    assert command_of("//usr is a directory") is None
    assert command_of(" /help") is None
    assert command_of("/help") == ("help", "")
    assert command_of("/system  be brief ") == ("system", "be brief")
    assert command_of("/system be\nbrief") == ("system", "be\nbrief")


@pytest.mark.parametrize("line", ["/", "/hlep", "/usr/bin", "/HELP", "/ help"])
def test_a_command_that_is_none_is_told_and_never_sent(line: str) -> None:
    with pytest.raises(ValueError, match="there is no command /"):
        command_of(line)
    with pytest.raises(ValueError, match="did you mean /help"):
        command_of("/hlep")
    assert set(COMMANDS) == {"help", "clear", "system", "model", "save", "quit"}
