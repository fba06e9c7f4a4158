"""The parser of every command, and which of its arguments contradict each other. Nothing heavy is imported for --help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from stagescope import __version__, config, settings

STAGE_COMMANDS = ("stages", "attention", "norms", "lens", "neurons", "paper")
CAUSE_COMMANDS = ("attribution", "heads", "probe", "similarity")
COMMANDS = {
    "read": "one reading of a prompt, edited or not, as text or JSON",
    "sweep": "every layer dropped, swapped and so on: what each does to the output",
    "stages": "the four stages of a model, their boundaries with the evidence",
    "attention": "attention to near tokens, by layer and head",
    "norms": "what attention and MLP write to the residual stream, by layer",
    "lens": "the logit lens by depth, corrected and v1, and tokens followed through it",
    "neurons": "prediction and suppression neurons of every layer",
    "attribution": "what each sublayer adds to a token's logit; under an edit, what repairs it",
    "heads": "heads that join the pieces of words; one head's pattern on a prompt",
    "probe": "do single neurons tell that the next token ends in -ing, or any suffix",
    "similarity": "how alike the layers are: block influence, angular distance, CKA",
    "compare": "two readings side by side: two schedules, two prompts, two models of one tokenizer",
    "generate": "what the model goes on to write, edited or not, token by token",
    "paper": "the paper's Figures 3 to 10 of a model, as one HTML file",
    "tour": "the four stages on the default model, step by step, in the app",
    "session": "what the app recorded: list, show, replay, watch, export",
    "models": "list, pull, info",
    "config": "the settings: show, path, edit",
    "doctor": "what this machine has and lacks",
    "where": "the folders stagescope uses",
}

VALUE_OPTIONS = (
    *("--model", "-m", "--device", "--dtype", "--threads", "--memory", "--bos", "--edit", "--position", "--lens"),
    *("--top", "--corpus", "--kind", "--schedules", "--track", "--track-id", "--tokens", "--window", "--svg", "--layer", "--follow", "--out", "-k"),
    *("--head", "--pieces", "--suffix", "--token", "--contexts", "--with-edit", "--with-prompt", "--with-model", "--session"),
    *("--temperature", "--top-k", "--top-p", "--seed", "--generate", "--color"),
)


def machine() -> argparse.ArgumentParser:
    """What every command that loads a model takes. What is not given is None: the settings say it, or a session."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("model and machine (defaults: stagescope config)")
    for setting in map(settings.NAMED.get, (*config.OF_LOAD, "color")):
        names = ("-m", setting.flag) if setting.name == "model" else (setting.flag,)
        told = f"{setting.kind.allowed}. {setting.help}".replace("%", "%%")
        group.add_argument(*names, type=_setting(setting.name), metavar=setting.name.upper(), help=told)
    group.add_argument("--no-bos", dest="bos", action="store_const", const="none", help="no prefix token")
    group.add_argument("--chat", action="store_true", help="put the prompt through the model's chat template")
    group.add_argument("--no-cache", dest="cache", action="store_false", help="compute everything anew, store nothing")
    group.add_argument("--offline", action="store_true", help="use only what is on this disk")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return common


def looks(record: bool = True) -> argparse.ArgumentParser:
    """What every command takes that opens the app. record: it keeps a session."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("the app")
    group.add_argument("--ascii", dest="glyphs", action="store_const", const="ascii", help="plain ASCII bars and marks")
    group.add_argument("--no-mouse", dest="mouse", action="store_const", const=False, help="no mouse reporting (less traffic over ssh)")
    if record:
        group.add_argument("--no-record", dest="recording", action="store_const", const=False, help="keep no session")
    return common


def app_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:11} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope",
        allow_abbrev=False,
        parents=[machine(), looks()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A terminal microscope for the layers of a language model.",
        epilog=f"commands (stagescope COMMAND --help tells more):\n{listing}\n\n`stagescope -- read` reads the word “read”.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="text to read; - reads it from standard input")
    parser.add_argument("--edit", metavar="SCHEDULE", help='start with this edit: "drop 7; swap 11 12"')
    parser.add_argument("--position", type=int, metavar="P", help="token position, -1 is the last (the default)")
    parser.add_argument("--lens", choices=("standard", "v1"), help="standard is the default")
    parser.add_argument("--session", metavar="NAME", help="go on with a session: its id, name or file, or last")
    parser.add_argument("--version", action="version", version=f"stagescope {__version__}")
    return parser


def command_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[machine(), looks()] if command == "tour" else [machine()],
        description=_sentence(COMMANDS[command]),
    )
    if command == "read":
        parser.add_argument("prompt", metavar="PROMPT", help="text to read; - reads it from standard input")
        parser.add_argument("--edit", default="", metavar="SCHEDULE", help='"drop 7; swap 11 12" and so on')
        parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
        parser.add_argument("--top", type=_positive, default=5, metavar="K", help="top tokens at each depth (5)")
        parser.add_argument("--lens", default="standard", choices=("standard", "v1"))
        followed = parser.add_mutually_exclusive_group()
        followed.add_argument("--track", type=_token, metavar="TEXT", help="the token to follow, its rank at each depth (default: the baseline's top token)")
        followed.add_argument("--track-id", type=int, metavar="N", help="the same by its id")
    if command == "models":
        parser.add_argument("action", nargs="?", default="list", choices=("list", "pull", "info"))
        parser.add_argument("name", nargs="?", help="the model (default: --model)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def sweep_parser() -> argparse.ArgumentParser:
    from stagescope.engine.kinds import KINDS

    listing = "\n".join(f"  {name:12} {text}" for name, text in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope sweep",
        usage="%(prog)s [options] (PROMPT... | --corpus FILE)",
        allow_abbrev=False,
        parents=[machine()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{_sentence(COMMANDS['sweep'])}\n\nkinds:\n{listing}",
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="texts to sweep over; - is standard input")
    parser.add_argument("--corpus", metavar="FILE", help="a text or JSON lines with a field text, pooled; - likewise")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--kind", type=_kinds, metavar="KIND,...", help="which schedules (default: drop,swap)")
    which.add_argument("--schedules", metavar="FILE", help="schedules of your own, one a line; - likewise")
    parser.add_argument("--layer", type=int, metavar="L", help="of heads and neurons: those of this layer alone")
    parser.add_argument("--position", type=int, metavar="P", help="where a trace is read (default: -1, the last)")
    parser.add_argument("--track", metavar="TEXT", help="the token to follow (default: the baseline's top token)")
    parser.add_argument("--tokens", type=_positive, metavar="N", help="of a corpus: stop when N were scored")
    parser.add_argument("--window", type=_positive, metavar="N", help="of a corpus: cut documents at N tokens (512)")
    parser.add_argument("--generate", type=_positive, metavar="N", help="of prompts: continue each schedule for N tokens too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON on stdout")
    form.add_argument("--csv", action="store_true", help="comma-separated values on stdout, one line a schedule")
    parser.add_argument("--plot", action="store_true", help="draw the curves above the table")
    parser.add_argument("--ascii", dest="glyphs", action="store_const", const="ascii", help="draw them in plain ASCII")
    parser.add_argument("--svg", metavar="FILE", help="draw the curves, or the grid of a trace, into a file too")
    return parser


def stage_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[machine()],
        description=_sentence(COMMANDS[command]),
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
        args.prompts += words[end + 1 :]
        one = len(args.prompts) == 1 and not args.mean
        of_one = command == "lens" and (args.edit or args.position is not None or args.follow)
        wrong = _of_texts(args) | {
            "--edit, --position and --follow are for one PROMPT, without --mean": of_one and not one,
            "--follow names no token": command == "lens" and "" in args.follow,
        }
        if command == "lens":
            args.position = -1 if args.position is None else args.position
    if mistake := next((mistake for mistake, holds in wrong.items() if holds), None):
        parser.error(mistake)
    return args


def cause_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"stagescope {command}",
        allow_abbrev=False,
        parents=[machine()],
        description=_sentence(COMMANDS[command]),
    )
    corpus = "a text or JSON lines with a field text; - is standard input (default: the help of Python)"
    match command:
        case "attribution":
            parser.add_argument("prompt", metavar="PROMPT", help="text to read; - reads it from standard input")
            parser.add_argument("--edit", default="", metavar="SCHEDULE", help='"drop 7; swap 11 12" and so on')
            parser.add_argument("--position", type=int, default=-1, metavar="P", help="token position, -1 is the last")
            parser.add_argument("--track", metavar="TEXT", help="whose logit (default: the baseline's top token)")
        case "heads":
            parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="with --head: where that head looks on it")
            parser.add_argument("--head", type=_head, metavar="L.H", help="of a PROMPT: head H of layer L")
            parser.add_argument("--edit", default="", metavar="SCHEDULE", help="of a PROMPT: under this schedule")
            parser.add_argument("--corpus", metavar="FILE", help=f"where words come from: {corpus}")
            parser.add_argument("--pieces", type=int, choices=(2, 3, 4), default=3, help="tokens of a word (3)")
        case "probe":
            parser.add_argument("--corpus", metavar="FILE", help=f"where contexts come from: {corpus}")
            parser.add_argument("--suffix", default="ing", metavar="TEXT", help="what the next token ends in (ing)")
            parser.add_argument("--token", action="append", default=[], metavar="TEXT", help="in place of a suffix: this next token; may be repeated")
            parser.add_argument("--contexts", type=_positive, default=2000, metavar="N", help="at most so many (2000)")
        case "similarity":
            words = "texts to measure over, - is standard input (default: a text that every Python carries)"
            parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=words)
            parser.add_argument("--corpus", metavar="FILE", help="a text or JSON lines with a field text; - likewise")
            parser.add_argument("--tokens", type=_positive, metavar="N", help="of a corpus: stop when N were scored")
            parser.add_argument("--window", type=_positive, metavar="N", help="of a corpus: cut documents at N tokens (512)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    return parser


def cause_arguments(command: str, words: list[str]) -> argparse.Namespace:
    """The arguments of a command on causes, what contradicts itself refused."""
    parser, end = cause_parser(command), words.index("--") if "--" in words else len(words)
    if command in ("attribution", "probe"):
        args, after = parser.parse_args(words), []
    else:
        args, after = parser.parse_intermixed_args(words[:end]), words[end + 1 :]
    wrong: dict[str, object] = {}
    if command == "similarity":
        args.prompts += after
        wrong = _of_texts(args)
    elif command == "heads":
        args.prompt = " ".join(after) or args.prompt
        wrong = {
            "a PROMPT and --head L.H go together": (args.prompt is None) != (args.head is None),
            "--edit is for a PROMPT": args.edit and args.prompt is None,
            "--corpus is for the search, without a PROMPT": args.corpus is not None and args.prompt is not None,
        }
    elif command == "probe":
        wrong = {
            "--suffix is empty: give the end of a word": not args.suffix and not args.token,
            "--token names no token": "" in args.token,
        }
    if mistake := next((mistake for mistake, holds in wrong.items() if holds), None):
        parser.error(mistake)
    return args


def _of_texts(args: argparse.Namespace) -> dict[str, object]:
    """What contradicts itself where something is measured over prompts or a file."""
    from stagescope.engine.protocol import MOST_PROMPTS

    prompts, corpus = args.prompts, args.corpus is not None
    return {
        "a PROMPT and --corpus FILE are two texts: give one of them": prompts and corpus,
        f"at most {MOST_PROMPTS} prompts are measured together": len(prompts) > MOST_PROMPTS,
        "standard input (-) can be read once": [*prompts, args.corpus].count("-") > 1,
        "two prompts are alike: give each once": len(set(prompts)) < len(prompts),
        "a prompt is empty: give some text": "" in prompts,
        "--tokens and --window are for --corpus": (args.tokens or args.window) and not corpus,
        "a window holds a prefix token and two more: give 3 or above": args.window is not None and args.window < 3,
    }


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
        "--generate continues a PROMPT, not a corpus": args.generate is not None and corpus,
        "--generate goes with the table or --json, not with --csv": args.generate is not None and args.csv,
        "--plot goes with the table, not with --json or --csv": args.plot and (args.json or args.csv),
    }
    return next((mistake for mistake, holds in wrong.items() if holds), None)


def _sentence(text: str) -> str:
    """Not capitalize(), which would write CKA small."""
    return f"{text[0].upper()}{text[1:]}."


def _head(text: str) -> tuple[int, int]:
    """ "5.3" """
    layer, _, head = text.partition(".")
    if not (layer.isdecimal() and head.isdecimal() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is no head: write layer and head, as 5.3")
    return int(layer), int(head)


def _kinds(text: str) -> tuple[str, ...]:
    from stagescope.engine.kinds import parse_kinds
    from stagescope.engine.protocol import EngineError

    try:
        return parse_kinds(text)
    except EngineError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _setting(name: str) -> Callable[[str], Any]:
    def checked(word: str) -> Any:
        try:
            return settings.given(name, word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _token(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it names no token")
    return text


def _positive(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
