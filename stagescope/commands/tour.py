"""The command `tour`: the steps in the app, or where there is no terminal as text."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from stagescope.commands import parsers
from stagescope.commands.arguments import app_look, load_request
from stagescope.commands.plain import picker_entries, why_no_app
from stagescope.console import print_json, print_text, say


def arguments(words: list[str]) -> argparse.Namespace:
    return parsers.command_parser("tour").parse_args(words)


def tour(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    from stagescope import tour as steps
    from stagescope.reports import tour as report
    from stagescope.text import printable

    args.model = args.model or steps.MODEL  # whatever the settings say
    if args.json or not sys.stdout.isatty():
        if args.model != steps.MODEL:  # in the app the panel says it
            say(f"stagescope: {steps.other_weights(printable(args.model))}")
        print_json(report.tour_json()) if args.json else print_text("".join(f"{line}\n" for line in report.tour_text()))
        return 0
    if why := why_no_app():
        say(f"stagescope: the tour needs a terminal, and {why}. `stagescope tour | cat` prints its steps.")
        return 2
    look, load = app_look(args), load_request(args)
    from stagescope.guide import guide

    command, code = guide(load, partial(picker_entries, load), **look)
    if command and code == 0:
        print(command)
    return code
