"""The library names arguments as in Python; the command line names its options."""

import re

import pytest
from test_layout import FILES, PACKAGE, rooms_of

from co_probe.cli.endings import in_flags

OPTION = re.compile(r"(?<![\w(-])--[a-z][a-z-]+")  # and not var(--color) of a style sheet
# What belongs to the command line, though it is not in its room: options that studies add, and the command that a
# report prints for its reader to type.
OF_THE_COMMAND_LINE = {"studies/injection/settings.py", "studies/memorisation/command.py", "reporting/facts.py"}


def code(text: str) -> str:
    """The text without docstrings and comments."""
    return re.sub(r"(?m)#.*$", "", re.sub(r'(?s)""".*?"""', "", text))


def test_messages_of_the_library_do_not_mention_options():
    files = [file for file in FILES if rooms_of(file) != "cli"]
    found = {
        file.relative_to(PACKAGE).as_posix(): options
        for file in files
        if (options := OPTION.findall(code(file.read_text(encoding="utf-8"))))
    }
    assert found.keys() == OF_THE_COMMAND_LINE


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        (
            "it is there: resume=True goes on, overwrite=True starts",
            "it is there: --resume goes on, --overwrite starts",
        ),
        ("check=False imports it", "--no-check imports it"),
        ("results=DIR stores it elsewhere", "--results DIR stores it elsewhere"),
        ("hand it in, model=...", "hand it in, --model ..."),
        ("log_file=FILE", "--log-file FILE"),
        ("name runs/a, with epoch=9 in eval", "name runs/a, with --epoch 9 in eval"),
        ("images=0: too few", "images=0: too few"),
        ("set method.learn_initialisation=false", "set method.learn_initialisation=false"),
        ("optimizer.nesterov=True is unknown", "optimizer.nesterov=True is unknown"),
        ("CO_PROBE_ALLOW=mine:Net", "CO_PROBE_ALLOW=mine:Net"),
        ("give the attack their bounds=(low, high)", "give the attack their bounds=(low, high)"),
    ],
)
def test_arguments_are_printed_as_options(said, printed):
    assert in_flags(said) == printed
