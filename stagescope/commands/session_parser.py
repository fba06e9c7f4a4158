"""The parser of `stagescope session`. Nothing heavy is imported for --help."""

from __future__ import annotations

import argparse

from stagescope.commands import parsers

ACTIONS = {
    "list": "the sessions that were recorded, the latest first",
    "show": "what happened in one, line by line",
    "replay": "run one again and compare every number it keeps; exit 1 where one differs",
    "watch": "see one again in the app: play, pause, step, seek",
    "export": "write what one looked at into a file; its extension says in which format",
    "note": "add a note",
    "name": "give one a name",
    "tag": "add tags",
    "delete": "remove one from this machine",
}
KINDS = ".json .csv .html .svg .md .py .ipynb .parquet .safetensors .cast, or .jsonl: the session itself"
TEXTS = {"note": ("text", "TEXT", None), "name": ("text", "NAME", None), "tag": ("tags", "TAG", "+")}


def arguments(words: list[str]) -> argparse.Namespace:
    listing = "\n".join(f"  {name:8} {text}" for name, text in ACTIONS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope session",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Recorded sessions.\n\nactions:\n{listing}",
        epilog="SESSION is an id or its beginning, a name, a file, or last.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        runs = name in ("replay", "watch", "export")
        of_one = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False,
            parents=[parsers.machine()] * runs + [parsers.looks(record=False)] * (name == "watch"),
        )  # fmt: skip
        if name != "list":
            of_one.add_argument("session", metavar="SESSION", help="an id or its beginning, a name, a file, or last")
        if name in TEXTS:
            dest, metavar, count = TEXTS[name]
            of_one.add_argument(dest, metavar=metavar, nargs=count)
        if name in ("list", "show", "replay"):
            of_one.add_argument("--json", action="store_true", help="JSON on stdout")
        if name == "export":
            of_one.add_argument("file", metavar="FILE", help=KINDS)
            of_one.add_argument("--event", type=int, metavar="N", help="as it stood after event N of `show` (the last)")
            of_one.add_argument("--force", action="store_true", help="overwrite the file if it exists")
            of_one.add_argument("--width", type=int, default=120, metavar="CELLS", help="of .svg and .cast (120)")
            of_one.add_argument("--height", type=int, default=40, metavar="LINES", help="of .svg and .cast (40)")
    args = parser.parse_args(words)
    if args.action == "export" and not (60 <= args.width <= 400 and 16 <= args.height <= 200):
        parser.error("a screen has 60 to 400 cells and 16 to 200 lines")
    return args
