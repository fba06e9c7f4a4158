"""How to get an answer again, in a line each: the command, and the Python door."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from typing import Any

from stagescope import config
from stagescope.answers import Answer
from stagescope.engine.protocol import (
    FindHeads,
    Generate,
    LensCurves,
    Load,
    MapStages,
    Read,
    ShowNeurons,
    ShowPattern,
    SweepCorpus,
    TakeAttribution,
    TakeCensus,
    TakeComparison,
    TakeEvidence,
    TakeLens,
    TakeProbe,
    TakeSimilarity,
    TakeSweep,
    Texts,
)
from stagescope.text import printable

TOP = 5  # tokens that `read` prints where nothing is said
LOADED = ("device", "dtype", "bos", "chat")  # what the numbers depend on; the rest is of the machine


def python(answer: Answer) -> str:
    """ 'import stagescope as ss; ss.load("smollm2-135m").read("The capital of France is", schedule="drop 7")'; "" where one
    model is not enough, or the answer was not asked for."""
    model, asked = calls(answer)
    return f"import stagescope as ss; {model}{asked}" if model else ""


def calls(answer: Answer) -> tuple[str, str]:
    """('ss.load("smollm2-135m")', '.read("The capital of France is", schedule="drop 7")'); twice "" as in `python`."""
    request = answer.request
    if request is None or _apart(answer):
        return "", ""
    model = _call("ss.load", answer.load, LOADED)
    if isinstance(request, Read) and request.tracked is None:
        return model, _call(".read", request, ("schedule", "position", "top", "lens"))
    return model, f".ask({_code(request)})"


def command(answer: Answer) -> str:
    """ "stagescope read --edit 'drop 7' 'The capital of France is'"; "" where no command line asks for the same."""
    return _line(answer.load, _words(answer))


def read_command(load: Load, request: Read, tracked: str = "") -> str:
    """The same of a reading that may not be there yet. tracked: the text of the token that it follows."""
    return _line(load, _read_words(request, tracked))


def _line(load: Load, words: tuple[list[str], list[str]] | None) -> str:
    if words is None or not all(_can_be_given(word) for word in (*words[0], *words[1])):
        return ""
    options, texts = words
    ends = ["--"] if any(text.startswith("-") for text in texts) else []
    return " ".join(["stagescope", *map(_quoted, [*options, *_load_options(load), *ends, *texts])])


def _can_be_given(word: str) -> bool:
    """ "-" would be standard input; a NUL or half a character cannot be written on a command line."""
    return word != "-" and "\0" not in word and word.encode("utf-8", "ignore").decode() == word


def _words(answer: Answer) -> tuple[list[str], list[str]] | None:
    """The command with its options, and its texts. None: it would need a token's text, a file of schedules, or there is none."""
    request = answer.request
    match request:
        case Read():
            return _read_words(request, getattr(answer.last, "texts", {}).get(request.tracked, ""))
        case TakeSweep(schedules=(), tracked=None):
            names = {"kinds": "--kind", "layer": "--layer", "position": "--position"}
            return ["sweep", *_options(request, **names)], list(request.prompts)
        case SweepCorpus(schedules=()):
            names = {"file": "--corpus", "tokens": "--tokens", "window": "--window"}
            return ["sweep", *_options(request, kinds="--kind", layer="--layer", **names)], []
        case TakeCensus():
            return ["neurons"], []
        case ShowNeurons(top=8):
            prompt = [request.prompt] if request.prompt else []
            return ["neurons", "--top", str(request.most), *_options(request, layer="--layer")], prompt
        case TakeEvidence():
            return ["attention", *_of_texts(request.texts)], list(request.texts.prompts)
        case MapStages():
            return ["stages", *_of_texts(request.texts)], list(request.texts.prompts)
        case TakeSimilarity():
            return ["similarity", *_of_texts(request.texts)], list(request.texts.prompts)
        case TakeLens() if isinstance(answer.last, LensCurves):
            if not all(_can_be_named(token.text) for token in answer.last.followed):
                return None
            followed = [word for token in answer.last.followed for word in ("--follow", token.text)]
            return ["lens", *_options(request, schedule="--edit", position="--position"), *followed], [request.prompt]
        case FindHeads():
            return ["heads", *_options(request, file="--corpus", pieces="--pieces")], []
        case ShowPattern():
            head = f"{request.layer}.{request.head}"
            return ["heads", "--head", head, *_options(request, schedule="--edit")], [request.prompt]
        case TakeAttribution(tracked=None):
            position = [] if answer.position == -1 else _glued(["--position", str(answer.position)])
            return ["attribution", *_options(request, schedule="--edit"), *position], [request.prompt]
        case TakeProbe(tokens=()):
            return ["probe", *_options(request, file="--corpus", suffix="--suffix", most="--contexts")], []
        case TakeComparison(a=Read(tracked=None, top=8) as a, b=Read(tracked=None, top=8) as b) if a.lens == b.lens and b.prompt != "-":
            second = ["--with-edit", b.schedule] if b.schedule != a.schedule else []
            second += ["--with-prompt", b.prompt] if b.prompt != a.prompt else []
            if (apart := _apart(answer)) not in ([], ["model"]):  # nothing gives the second a dtype of its own
                return None
            second += ["--with-model", answer.other.model] if apart else []
            second += ["--position", str(answer.position)] if answer.position not in (-1, len(answer.last.a.tokens) - 1) else []
            return ["compare", *_options(a, schedule="--edit", lens="--lens"), *_glued(second)], [a.prompt]
        case Generate():
            names = {"tokens": "--tokens", "temperature": "--temperature", "top_k": "--top-k", "top_p": "--top-p", "seed": "--seed"}
            edits = [word for schedule in request.schedules for word in _glued(["--edit", schedule])]
            return ["generate", *edits, *_options(request, **names)], [request.prompt]
    return None


def _read_words(request: Read, tracked: str) -> tuple[list[str], list[str]]:
    words = _options(request, schedule="--edit", position="--position", lens="--lens")
    words += ["--top", str(request.top)] if request.top != TOP else []
    if request.tracked is not None:
        words += ["--track", tracked] if _can_be_named(tracked) else ["--track-id", str(request.tracked)]
    return ["read", *words], [request.prompt]


def _can_be_named(token: str) -> bool:
    """Whether a command finds the token by its text: not one without a space before it, as that is tried with one first, nor
    one whose text was made harmless."""
    return token.startswith(" ") and "\\" not in token


def _apart(answer: Answer) -> list[str]:
    """What the model that read b was loaded with otherwise; [] where one model read both."""
    other = answer.other or answer.load
    return [name for name in ("model", *LOADED) if getattr(other, name) != getattr(answer.load, name)]


def _glued(words: list[str]) -> list[str]:
    """Flags and values, those joined that argparse would take for two flags: --position=-2."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs for word in ([f"{flag}={value}"] if value.startswith("-") else [flag, value])]


def _of_texts(texts: Texts) -> list[str]:
    return _options(texts, file="--corpus", tokens="--tokens", window="--window")


def _load_options(load: Load) -> list[str]:
    return [*_glued(config.flags(load, ("model", "device", "dtype", "bos"))), *_options(load, chat="--chat")]


def _options(request: Any, **flags: str) -> list[str]:
    """What is not as it is without the flag."""
    words: list[str] = []
    for name, value in _changed(request):
        if name in flags and value is True:
            words.append(flags[name])
        elif name in flags:
            words += _glued([flags[name], ",".join(value) if isinstance(value, tuple) else str(value)])
    return words


def _quoted(word: str) -> str:
    """For a POSIX shell; what is not printable as bash, zsh and ksh write it."""
    if printable(word) == word:
        return shlex.quote(word)
    of = (f"\\x{b:02x}" if b in b"'\\" or not 32 <= b < 127 else chr(b) for b in word.encode())
    return f"$'{''.join(of)}'"


# ----------------------------------------------------------------------------------------------- as Python


def _call(name: str, request: Any, only: Iterable[str]) -> str:
    """The first field by itself, of the others those of `only` that are not at their default."""
    first = dataclasses.fields(request)[0].name
    named = [f"{key}={_code(value)}" for key, value in _changed(request) if key in only]
    return f"{name}({', '.join([_code(getattr(request, first)), *named])})"


def _code(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"ss.{type(value).__name__}({', '.join(f'{name}={_code(of)}' for name, of in _changed(value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_code, value))}{',' * (len(value) == 1)})"
    written = repr(value)
    return written if printable(written) == written else ascii(value)


def _changed(request: Any) -> list[tuple[str, Any]]:
    """Fields that are not at their default."""
    return [
        (field.name, getattr(request, field.name))
        for field in dataclasses.fields(request)
        if getattr(request, field.name) != field.default
    ]
