"""The command line: words become a parser's arguments, arguments a command. Nothing heavy is imported for --help.

Data on stdout, everything else on stderr. Exit codes: 0; 1 error; 2 usage; 3 model or data missing; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from stagescope import config, console
from stagescope.commands import causes, compare, configure, generate, parsers, plain, session, session_parser, stages, sweep, tour
from stagescope.commands.parsers import CAUSE_COMMANDS, COMMANDS, STAGE_COMMANDS, VALUE_OPTIONS


def main(argv: list[str] | None = None) -> NoReturn:
    words = sys.argv[1:] if argv is None else argv
    try:
        code = run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the pipe has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except config.ConfigError as error:
        console.say(f"stagescope: {error}")
        code = 2
    except Exception as error:
        code = console.crash(error)
    sys.exit(code)


def run(words: list[str]) -> int:
    command, rest = split(words)
    if command == "config":  # before what the file says stands in the environment too
        return configure.config_command(configure.arguments(rest))
    config.hand_on()
    if command is None:
        return plain.app(parsers.app_parser().parse_args(rest))
    if command == "session":
        return session.session(session_parser.arguments(rest))
    if command == "compare":
        return compare.compare(compare.arguments(rest))
    if command == "tour":
        return tour.tour(tour.arguments(rest))
    if command == "generate":
        return generate.generate(generate.arguments(rest))
    if command == "sweep":
        return sweep.sweep(parsers.sweep_arguments(rest))
    if command in STAGE_COMMANDS:
        return getattr(stages, command)(parsers.stage_arguments(command, rest))
    if command in CAUSE_COMMANDS:
        return getattr(causes, command)(parsers.cause_arguments(command, rest))
    return getattr(plain, command)(parsers.command_parser(command).parse_args(rest))


def split(words: list[str]) -> tuple[str | None, list[str]]:
    """The command, if the first word that is no option is one, and the other words. After -- all is prompt."""
    index = 0
    while index < len(words) and words[index].startswith("-") and words[index] not in ("-", "--"):
        index += 2 if words[index] in VALUE_OPTIONS else 1
    if index < len(words) and words[index] in COMMANDS:
        return words[index], words[:index] + words[index + 1 :]
    return None, words
