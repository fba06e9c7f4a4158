"""The command `tour`: the steps in the app, or where there is no terminal as text."""

from __future__ import annotations

import argparse
import sys

from stagescope.commands import parsers
from stagescope.commands.arguments import load_request
from stagescope.commands.plain import picker_entries, why_no_app
from stagescope.console import print_json, print_text, say


def arguments(words: list[str]) -> argparse.Namespace:
    parser = parsers.command_parser("tour")
    parser.add_argument("--ascii", action="store_true", help="plain ASCII bars and marks")
    parser.add_argument("--no-mouse", action="store_true", help="no mouse reporting (less traffic over ssh)")
    parser.add_argument("--no-record", dest="record", action="store_const", const=False, help="keep no session")
    return parser.parse_args(words)


def tour(args: argparse.Namespace) -> int:
    from stagescope import config
    from stagescope import tour as steps
    from stagescope.reports import tour as report
    from stagescope.text import printable

    if args.json or not sys.stdout.isatty():
        if args.model != steps.MODEL:  # in the app the panel says it
            say(f"stagescope: {steps.other_weights(printable(args.model))}")
        print_json(report.tour_json()) if args.json else print_text("".join(f"{line}\n" for line in report.tour_text()))
        return 0
    if why := why_no_app():
        say(f"stagescope: the tour needs a terminal, and {why}. `stagescope tour | cat` prints its steps.")
        return 2
    try:
        record = config.recording(args.record)
    except config.ConfigError as error:
        say(f"stagescope: {error}")
        return 2
    from stagescope.guide import guide

    command, code = guide(load_request(args), picker_entries, args.ascii, record, mouse=not args.no_mouse)
    if command and code == 0:
        print(command)
    return code
