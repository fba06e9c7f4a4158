"""The command line: words become a parser's arguments, arguments a command. Nothing heavy is imported for --help.

Data on stdout, everything else on stderr. Exit codes: 0; 1 error; 2 usage; 3 model or data missing; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from stagescope import __version__, commands, console, stage_commands, sweep_command

LATER = ("probe", "generate", "session")  # words kept for commands to come
STAGE_COMMANDS = ("stages", "attention", "norms", "lens", "neurons", "paper")
DEFAULT_MODEL = "smollm2-135m"  # as protocol.DEFAULT_MODEL, which would import numpy
COMMANDS = {
    "read": "one reading of a prompt, edited or not, as text or JSON",
    "sweep": "every layer dropped, swapped and so on: what each does to the output",
    "stages": "the four stages of a model, their boundaries with the evidence",
    "attention": "attention to near tokens, by layer and head",
    "norms": "what attention and MLP write to the residual stream, by layer",
    "lens": "the logit lens by depth, corrected and v1, and tokens followed through it",
    "neurons": "prediction and suppression neurons of every layer",
    "paper": "the paper's Figures 3 to 8 of a model, as one HTML file",
    "models": "list, pull, info",
    "doctor": "what this machine has and lacks",
    "where": "the folders stagescope uses",
}


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
    except Exception as error:
        code = console.crash(error)
    sys.exit(code)


def run(words: list[str]) -> int:
    command, rest = split(words)
    if command in LATER:
        console.say(f"stagescope: {command} is not in this version. To read the word, use `stagescope -- {command}`.")
        return 2
    if command is None:
        return commands.app(app_parser().parse_args(rest))
    if command == "sweep":
        return sweep_command.sweep(sweep_arguments(rest))
    args = stage_arguments(command, rest) if command in STAGE_COMMANDS else command_parser(command).parse_args(rest)
    return {
        "read": commands.read,
        **{name: getattr(stage_commands, name) for name in STAGE_COMMANDS},
        "models": commands.models,
        "doctor": commands.doctor,
        "where": commands.where,
    }[command](args)


def split(words: list[str]) -> tuple[str | None, list[str]]:
    """The command, if the first word that is no option is one, and the other words. After -- all is prompt."""
    index = 0
    while index < len(words) and words[index].startswith("-") and words[index] not in ("-", "--"):
        index += 2 if words[index] in VALUE_OPTIONS else 1
    if index < len(words) and words[index] in (*COMMANDS, *LATER):
        return words[index], words[:index] + words[index + 1 :]
    return None, words


# ------------------------------------------------------------------------------------------------ parsers

VALUE_OPTIONS = (
    *("--model", "-m", "--device", "--dtype", "--threads", "--memory", "--bos", "--edit", "--position", "--lens"),
    *("--top", "--corpus", "--kind", "--schedules", "--track", "--tokens", "--window", "--svg", "--layer", "--follow", "--out", "-k"),
)


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("model and machine")
    group.add_argument("-m", "--model", default=DEFAULT_MODEL, help="catalogue name, hub id, directory or .gguf file")
    group.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU with most free memory, else cpu)")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--threads", type=_positive, help="CPU threads (default: physical cores minus one)")
    group.add_argument("--memory", type=_bytes, metavar="SIZE", help="what a sweep may take beside the weights (2G)")
    group.add_argument("--bos", default="auto", metavar="TOKEN", help="prefix token: auto, none, or its text")
    group.add_argument("--no-bos", dest="bos", action="store_const", const="none", help="no prefix token")
    group.add_argument("--chat", action="store_true", help="put the prompt through the model's chat template")
    group.add_argument("--no-cache", dest="cache", action="store_false", help="compute everything anew, store nothing")
    group.add_argument("--offline", action="store_true", help="use only what is on this disk")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return common


def app_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope",
        allow_abbrev=False,
        parents=[_common()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A terminal microscope for the layers of a language model.",
        epilog=f"commands (stagescope COMMAND --help tells more):\n{listing}\n\n`stagescope -- read` reads the word “read”.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to read; - reads it from standard input")
    parser.add_argument("--edit", default="", metavar="SCHEDULE", help='start with this edit: "drop 7; swap 11 12"')
    parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
    parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
    parser.add_argument("--ascii", action="store_true", help="plain ASCII bars and marks")
    parser.add_argument("--no-mouse", action="store_true", help="no mouse reporting (less traffic over ssh)")
    parser.add_argument("--version", action="version", version=f"stagescope {__version__}")
    return parser


def command_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[_common()],
        description=COMMANDS[command].capitalize() + ".",
    )
    if command == "read":
        parser.add_argument("prompt", metavar="PROMPT", help="text to read; - reads it from standard input")
        parser.add_argument("--edit", default="", metavar="SCHEDULE", help='"drop 7; swap 11 12" and so on')
        parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
        parser.add_argument("--top", type=_positive, default=5, metavar="K", help="top tokens at each depth (5)")
        parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
    if command == "models":
        parser.add_argument("action", nargs="?", default="list", choices=("list", "pull", "info"))
        parser.add_argument("name", nargs="?", help="the model (default: --model)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def sweep_parser() -> argparse.ArgumentParser:
    from stagescope.engine.kinds import KINDS

    listing = "\n".join(f"  {name:9} {text}" for name, text in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope sweep",
        usage="%(prog)s [options] (PROMPT... | --corpus FILE)",
        allow_abbrev=False,
        parents=[_common()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{COMMANDS['sweep'].capitalize()}.\n\nkinds:\n{listing}",
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts to sweep over; - is standard input")
    parser.add_argument("--corpus", metavar="FILE", help="a text or JSON lines with a field text, pooled; - likewise")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--kind", type=_kinds, metavar="KIND,...", help="which schedules (default: drop,swap)")
    which.add_argument("--schedules", metavar="FILE", help="schedules of your own, one a line; - likewise")
    parser.add_argument("--position", type=int, metavar="P", help="where a trace is read (default: -1, the last)")
    parser.add_argument("--track", metavar="TEXT", help="the token to follow (default: the baseline's top token)")
    parser.add_argument("--tokens", type=_positive, metavar="N", help="of a corpus: stop when N were scored")
    parser.add_argument("--window", type=_positive, metavar="N", help="of a corpus: cut documents at N tokens (512)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON on stdout")
    form.add_argument("--csv", action="store_true", help="comma-separated values on stdout, one line a schedule")
    parser.add_argument("--plot", action="store_true", help="draw the curves above the table")
    parser.add_argument("--ascii", action="store_true", help="draw them in plain ASCII")
    parser.add_argument("--svg", metavar="FILE", help="draw the curves, or the grid of a trace, into a file too")
    return parser


def stage_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[_common()],
        description=COMMANDS[command].capitalize() + ".",
    )
    if command == "neurons":
        parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="with --top: text whose activations are shown")
        parser.add_argument("--top", type=_positive, metavar="N", help="also the N strongest neurons of each class")
        parser.add_argument("--layer", type=int, metavar="L", help="with --top: of this layer alone")
    else:
        words = "texts to measure over, - is standard input (default: a text that every Python carries)"
        parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=words)
        parser.add_argument("--corpus", metavar="FILE", help="a text or JSON lines with a field text; - likewise")
        parser.add_argument("--tokens", type=_positive, metavar="N", help="of a corpus: stop when N were scored")
        parser.add_argument("--window", type=_positive, metavar="N", help="of a corpus: cut documents at N tokens (512)")
    if command == "attention":
        parser.add_argument("-k", type=int, choices=(1, 2, 4, 5, 8, 16), default=5, help="how many tokens before (5)")
    if command == "lens":
        parser.add_argument("--edit", default="", metavar="SCHEDULE", help='of one PROMPT: "drop 7; swap 11 12"')
        parser.add_argument("--position", type=int, metavar="P", help="of one PROMPT: token position (default: the last)")
        parser.add_argument("--follow", action="append", default=[], metavar="TEXT", help="a token; may be repeated")
        parser.add_argument("--mean", action="store_true", help="means over all tokens, instead of one position")
    if command == "paper":
        parser.add_argument("--out", default="paper.html", metavar="FILE", help="the report (paper.html); .json beside it")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def stage_arguments(command: str, words: list[str]) -> argparse.Namespace:
    """The arguments of a command on the stages, what contradicts itself refused."""
    parser, end = stage_parser(command), words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    args.command, args.mean = command, getattr(args, "mean", False)
    if command == "neurons":
        args.prompt = " ".join(words[end + 1 :]) or args.prompt
        wrong = {"PROMPT and --layer go with --top": (args.prompt or args.layer is not None) and not args.top}
    else:
        from stagescope.engine.protocol import MOST_PROMPTS

        args.prompts += words[end + 1 :]
        prompts, corpus = args.prompts, args.corpus is not None
        one = len(prompts) == 1 and not args.mean
        of_one = command == "lens" and (args.edit or args.position is not None or args.follow)
        wrong = {
            "a PROMPT and --corpus FILE are two texts: give one of them": prompts and corpus,
            f"at most {MOST_PROMPTS} prompts are measured together": len(prompts) > MOST_PROMPTS,
            "standard input (-) can be read once": [*prompts, args.corpus].count("-") > 1,
            "two prompts are alike: give each once": len(set(prompts)) < len(prompts),
            "a prompt is empty: give some text": "" in prompts,
            "--tokens and --window are for --corpus": (args.tokens or args.window) and not corpus,
            "a window holds a prefix token and two more: give 3 or above": args.window is not None and args.window < 3,
            "--edit, --position and --follow are for one PROMPT, without --mean": of_one and not one,
            "--follow names no token": command == "lens" and "" in args.follow,
        }
        if command == "lens":
            args.position = -1 if args.position is None else args.position
    if mistake := next((mistake for mistake, holds in wrong.items() if holds), None):
        parser.error(mistake)
    return args


def sweep_arguments(words: list[str]) -> argparse.Namespace:
    """The arguments of a sweep, each at its default, what contradicts itself refused."""
    parser, end = sweep_parser(), words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])  # prompts may stand between options; after -- all is prompt
    args.prompts += words[end + 1 :]
    if mistake := _contradiction(args):
        parser.error(mistake)
    args.kind = args.kind or ("drop", "swap")
    args.position = -1 if args.position is None else args.position
    args.window = args.window or 512
    return args


def _contradiction(args: argparse.Namespace) -> str | None:
    from stagescope.engine.protocol import MOST_PROMPTS

    prompts, corpus, trace = args.prompts, args.corpus is not None, args.kind == ("trace",)
    stdin = [*prompts, args.corpus, args.schedules].count("-")
    wrong = {
        "give a PROMPT or --corpus FILE": not prompts and not corpus,
        "a PROMPT and --corpus FILE are two sweeps: give one of them": prompts and corpus,
        f"a sweep takes at most {MOST_PROMPTS} prompts, these are {len(prompts)}": len(prompts) > MOST_PROMPTS,
        "standard input (-) can be read once": stdin > 1,
        "two prompts are alike: give each once": len(set(prompts)) < len(prompts),
        "a prompt is empty: give some text": "" in prompts,
        "--tokens and --window are for --corpus": (args.tokens or args.window) and not corpus,
        "a trace is of one prompt": trace and (corpus or len(prompts) > 1),
        "--position is where a trace is read: give --kind trace with it": args.position is not None and not trace,
        "--track follows a token of a PROMPT, not of a corpus": args.track is not None and corpus,
        "--track names no token": args.track == "",
        "a window holds a prefix token and two more: give 3 or above": args.window is not None and args.window < 3,
        "--plot goes with the table, not with --json or --csv": args.plot and (args.json or args.csv),
    }
    return next((mistake for mistake, holds in wrong.items() if holds), None)


def _kinds(text: str) -> tuple[str, ...]:
    from stagescope.engine.kinds import parse_kinds
    from stagescope.engine.protocol import EngineError

    try:
        return parse_kinds(text)
    except EngineError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    """ "512M", "2G" or a plain number of bytes."""
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in ("K", "M", "G") else (text, "")
    if not (digits.isdecimal() and digits.isascii() and int(digits) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give bytes, or a number with K, M or G")
    return int(digits) * 1024 ** " KMG".index(unit or " ")


def _positive(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
