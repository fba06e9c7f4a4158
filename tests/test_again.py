"""The two lines that give an answer again, read as what they say: every word of them changes the numbers."""

import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_exports import PROMPT, ask

import stagescope as ss
from stagescope.answers import Answer
from stagescope.engine.protocol import (
    FindHeads,
    Generate,
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
from stagescope.exports import again, formats

LOAD = Load("smollm2-135m", "cpu", "bfloat16", threads=2, bos="none", chat=True, cache=False, memory=2**30)
TEXTS = Texts((PROMPT, "b"), None, 90, 64)
EDITED = Read(PROMPT, "drop 3")


def said(line: str) -> tuple[Load, object]:
    """What a line of Python asks of which model, without asking it."""
    first, _, call = line.partition("; ")
    assert first == "import stagescope as ss"
    loaded = SimpleNamespace(ask=lambda request: request, read=Read)
    loads = []

    def load(*words, **named):
        loads.append(Load(*words, **named))
        return loaded

    names = {name: getattr(ss, name) for name in ss.__all__} | {"load": load}
    asked = eval(call, {"ss": SimpleNamespace(**names)})
    return loads[0], asked


@pytest.mark.parametrize(
    "request_",
    [
        *(Read(PROMPT), Read(PROMPT, "drop 3", 2, 3, "v1"), Read(PROMPT, position=-2, tracked=7), TakeSweep((PROMPT,), ("trace",), position=2)),
        *(TakeSweep((PROMPT, "b"), schedules=("drop 1", "drop 2"), tracked=4, layer=None), TakeSweep((PROMPT,), ("heads",), layer=2)),
        *(TakeLens(PROMPT, "drop 3", 2, (5, 7)), ShowNeurons(2, 4, PROMPT, 3), TakeEvidence(TEXTS, ("v1",)), MapStages(TEXTS)),
        *(TakeAttribution(PROMPT, "drop 3", 7), ShowPattern(PROMPT, 2, 1, "drop 3"), FindHeads("a.txt", 2), TakeProbe("a.txt", "ed", (3,), 9)),
        *(TakeComparison(EDITED, Read("b", position=1, top=3)), Generate(PROMPT, ("drop 3",), 4, 0.5, 3, 0.9, 2), TakeCensus()),
    ],
    ids=repr,
)
def test_the_line_of_python_asks_for_the_same_of_the_same_model(request_):
    answer = replace(ask(Read(PROMPT))[0], load=LOAD, request=request_)
    load, asked = said(again.python(answer))
    assert load == Load("smollm2-135m", "cpu", "bfloat16", bos="none", chat=True)  # the rest changes no number
    assert asked == request_
    assert said(again.python(replace(answer, load=Load())))[0] == Load()


def told(request, load: Load = Load(), **changes) -> list[str]:
    (answer,) = ask(request)
    return shlex.split(again.command(replace(answer, load=load, **changes)))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Read(PROMPT), ["read", "--top", "8", PROMPT]),  # the command's own is 5
        (Read(PROMPT, top=5), ["read", PROMPT]),
        (Read(PROMPT, "drop 3", 2, 3, "v1"), ["read", "--edit", "drop 3", "--position", "2", "--lens", "v1", "--top", "3", PROMPT]),
        (Read("-1", position=-2), ["read", "--position=-2", "--top", "8", "--", "-1"]),
        (TakeSweep((PROMPT,), ("trace",), position=2), ["sweep", "--kind", "trace", "--position", "2", PROMPT]),
        (TakeSweep((PROMPT, "b"), ("heads", "press"), layer=2), ["sweep", "--kind", "heads,press", "--layer", "2", PROMPT, "b"]),
        (ShowNeurons(2, 4, PROMPT), ["neurons", "--top", "4", "--layer", "2", PROMPT]),
        (ShowNeurons(), ["neurons", "--top", "10"]),
        (TakeCensus(), ["neurons"]),
        (TakeEvidence(TEXTS), ["attention", "--tokens", "90", "--window", "64", PROMPT, "b"]),
        (MapStages(TEXTS), ["stages", "--tokens", "90", "--window", "64", PROMPT, "b"]),
        (TakeSimilarity(Texts((PROMPT,))), ["similarity", PROMPT]),
        (TakeLens(PROMPT, "drop 3", 2), ["lens", "--edit", "drop 3", "--position", "2", PROMPT]),
        (FindHeads("a.txt", 2), ["heads", "--corpus", "a.txt", "--pieces", "2"]),
        (ShowPattern(PROMPT, 2, 1, "drop 3"), ["heads", "--head", "2.1", "--edit", "drop 3", PROMPT]),
        (TakeAttribution(PROMPT, "drop 3"), ["attribution", "--edit", "drop 3", PROMPT]),
        (TakeProbe("a.txt", "ed", most=90), ["probe", "--corpus", "a.txt", "--suffix", "ed", "--contexts", "90"]),
        (TakeComparison(EDITED, Read(PROMPT)), ["compare", "--edit", "drop 3", "--with-edit", "", PROMPT]),
        (TakeComparison(Read("a b"), Read("a c")), ["compare", "--with-prompt", "a c", "a b"]),
        (
            TakeComparison(replace(EDITED, lens="v1"), Read("-c d e f g h", "swap 1 2", lens="v1")),
            ["compare", "--edit", "drop 3", "--lens", "v1", "--with-edit", "swap 1 2", "--with-prompt=-c d e f g h", PROMPT],
        ),
        (
            Generate(PROMPT, ("drop 3", "swap 1 2"), 4, 0.5, 3, 0.9, 2),
            ["generate", "--edit", "drop 3", "--edit", "swap 1 2", "--tokens", "4", "--temperature", "0.5"]
            + ["--top-k", "3", "--top-p", "0.9", "--seed", "2", PROMPT],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else repr(value),
)
def test_the_command_has_every_word_that_changes_a_number(request_, words):
    assert told(request_) == ["stagescope", *words]


def test_the_command_loads_the_model_as_it_was_loaded():
    words = told(Read(PROMPT), LOAD)
    assert words[4:] == ["--device", "cpu", "--dtype", "bfloat16", "--bos", "none", "--chat", PROMPT]
    assert told(Read(PROMPT), Load("gpt2"))[4:6] == ["--model", "gpt2"]


@pytest.mark.parametrize("request_", [TakeAttribution(PROMPT), TakeComparison(Read(PROMPT), EDITED)], ids=["attribution", "comparison"])
def test_the_command_looks_at_the_token_that_was_looked_at(request_):
    for position in (2, 0, -2):
        words = told(request_, position=position)
        flag = ["--position", str(position)] if position >= 0 else [f"--position={position}"]
        assert words[-len(flag) - 1 : -1] == flag
    assert not any("--position" in word for word in told(request_, position=-1))


def test_a_token_followed_is_given_by_its_text_where_that_is_its_own():
    (answer,) = ask(TakeLens(PROMPT, tokens=(5, 7)))
    five, seven = (replace(token, text=text) for token, text in zip(answer.last.followed, (" Paris", " -x"), strict=True))
    followed = replace(answer, replies=(replace(answer.last, followed=(five, seven)),))
    assert shlex.split(again.command(followed))[1:] == ["lens", "--follow", " Paris", "--follow", " -x", PROMPT]
    for other in ("Paris", "-x", " \\u{1b}"):  # tried with a space first; made harmless
        unnamed = replace(answer, replies=(replace(answer.last, followed=(replace(five, text=other),)),))
        assert again.command(unnamed) == ""
    (reading,) = ask(Read(PROMPT, tracked=7))
    for text, words in {" Paris": ["--track", " Paris"], "Paris": ["--track-id", "7"]}.items():
        told = again.command(replace(reading, replies=(replace(reading.last, texts={7: text}),)))
        assert shlex.split(told)[1:] == ["read", "--top", "8", *words, PROMPT]


@pytest.mark.parametrize(
    "request_",
    [
        *(TakeSweep((PROMPT,), tracked=7), TakeAttribution(PROMPT, tracked=7), TakeProbe(tokens=(7,))),
        *(TakeComparison(Read(PROMPT, tracked=7), EDITED), TakeComparison(Read(PROMPT), replace(EDITED, tracked=7))),
        TakeComparison(EDITED, Read("-")),  # --with-prompt=- reads standard input
        *(TakeComparison(Read(PROMPT, top=3), replace(EDITED, top=3)), SweepCorpus("a.txt", schedules=("drop 1",))),
        *(TakeComparison(Read(PROMPT, lens="v1"), EDITED), ShowNeurons(top=3), TakeSweep((PROMPT,), schedules=("drop 1",))),
    ],
    ids=repr,
)
def test_no_command_is_given_that_would_ask_for_something_else(request_):
    answer = replace(ask(TakeComparison(Read(PROMPT), EDITED))[0], request=request_)
    assert again.command(answer) == "" and again.python(answer)


# ------------------------------------------------------------------------------------------------- two models


@pytest.fixture
def compared() -> Answer:
    return replace(ask(TakeComparison(Read(PROMPT), EDITED))[0], load=Load("/models/a b"))


def test_a_second_model_is_given_by_where_it_is(compared):
    found = replace(compared, other=Load("/models/c"))
    words = shlex.split(again.command(found))
    assert words[1:] == ["compare", "--with-edit", "drop 3", "--with-model", "/models/c", "--model", "/models/a b", PROMPT]
    assert again.python(found) == ""
    with pytest.raises(formats.ExportError, match="--with-model /models/c .*asks for it"):
        formats.render(found, "py")


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"device": "cuda:1"}, {"bos": "none"}, {"chat": True}], ids=str)
def test_one_model_loaded_twice_is_no_model_compared_with_itself(compared, change):
    """Its directory, and so its fingerprint, is the same: numbers are those of two models all the same."""
    for other in (replace(compared.load, **change), replace(compared.load, model="c", **change)):
        found = replace(compared, other=other)
        assert again.command(found) == again.python(found) == ""
        with pytest.raises(formats.ExportError, match="export .json"):
            formats.render(found, "ipynb")


def test_what_changes_no_number_makes_no_second_model(compared):
    found = replace(compared, other=replace(compared.load, threads=1, cache=False, offline=True, memory=2**30))
    assert again.command(found) == again.command(compared) != "" and again.python(found) == again.python(compared) != ""
