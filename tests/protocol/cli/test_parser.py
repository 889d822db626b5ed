"""Arguments: words and options in any order, values that are given with `=` only, near misses."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace

import pytest

from vestal.cli.parser import Parser, nearest, seconds


def parsed(*arguments: str, least: int = 0, most: int | None = None) -> Namespace:
    parser = Parser("try", "Try.", words="[WORD…]", least=least, most=most)
    parser.add_argument("--count", type=int)
    parser.add_argument("--flag", action="store_true")
    parser.add_optional_value("--wait", alone="5m", metavar="SECONDS", kind=seconds, help="wait")
    return parser.parse(arguments, Namespace(runtime_dir=None))


def test_words_and_options_may_be_mixed() -> None:
    args = parsed("a", "--count", "3", "b", "--flag", "c d")
    assert (args.words, args.count, args.flag) == (["a", "b", "c d"], 3, True)


def test_after_two_dashes_everything_is_a_word() -> None:
    args = parsed("a", "--flag", "--", "--count", "--", "-x")
    assert (args.words, args.flag, args.count) == (["a", "--count", "--", "-x"], True, None)


@pytest.mark.parametrize("word", ["-", "-5", "-0.5", "-an option with blanks is none"])
def test_what_only_looks_like_an_option_is_a_word(word: str) -> None:
    assert parsed(word).words == [word]


@pytest.mark.parametrize(
    ("arguments", "waits"), [((), None), (("--wait",), 300), (("--wait=2.5",), 2.5), (("--wait=1m",), 60)]
)
def test_an_optional_value_is_given_with_an_equals_sign_only(arguments: tuple[str, ...], waits: float | None) -> None:
    args = parsed(*arguments, "7")
    assert (args.wait, args.words) == (waits, ["7"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--coutn", "3"), "there is no option --coutn: did you mean --count?"),
        (("--coutn=3",), "there is no option --coutn=3: did you mean --count?"),
        (("-q",), "there is no option -q ("),
        (("--flog",), "there is no option --flog: did you mean --flag?"),
        (("--grammar",), "there is no option --grammar ("),
        (("--count",), "expected one argument"),
        (("--count", "x"), "invalid int value: 'x'"),
        (("\udcff",), "is not UTF-8"),
    ],
)
def test_a_mistake_is_one_line_and_code_two(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert said in written.err
    assert (written.out, written.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(("least", "most", "words"), [(1, 1, []), (1, None, []), (0, 0, ["a"]), (1, 1, ["a", "b"])])
def test_the_number_of_words_is_checked(least: int, most: int | None, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*words, least=least, most=most)


def test_the_runtime_directory_from_before_the_command_stays_unless_another_follows() -> None:
    parser = Parser("try", "Try.")
    assert parser.parse([], Namespace(runtime_dir="/a")).runtime_dir == "/a"
    assert parser.parse(["--runtime-dir", "/b"], Namespace(runtime_dir="/a")).runtime_dir == "/b"


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30), ("0.5", 0.5), (".5", 0.5), ("250ms", 0.25), ("1m30s", 90), ("0", 0)]
)
def test_lengths_of_time(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1e3", "nan", "inf", "soon", "1w", "١٢", "9" * 400])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        seconds(text)


def test_the_nearest_word_is_offered_only_if_it_is_near() -> None:
    assert nearest("stauts", ["status", "stop"]) == ": did you mean status?"
    assert nearest("xyzzy", ["status", "stop"]) == ""
