"""A session run again: equal when nothing changed, and every number that is not is named. On a tiny model."""

import json
from types import SimpleNamespace

import pytest

from stagescope import cli
from stagescope.answers import collected
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import FindHeads, Load, Progress, Read, TakeAttribution, TakeSweep
from stagescope.reports import reading as report
from stagescope.sessions import files, short
from stagescope.sessions.events import plain
from stagescope.sessions.replay import OTHER_DEVICE, SAME, compare, differing, replay

pytestmark = pytest.mark.usefixtures("home")
PROMPT = "the quick brown fox"
HOSTILE = "\x1b]52;c;aGk=\x07 \u202e \udcff <script>"


@pytest.fixture(scope="module")
def engine(llama_dir):
    engine = LocalEngine()
    for _ in engine.answer(Load(str(llama_dir), device="cpu", cache=False)):
        pass
    return engine


def answered(engine, request):
    return collected([reply for reply in engine.answer(request) if not isinstance(reply, Progress)])


@pytest.fixture
def recorded(engine, llama_dir, home):
    """A session as the app would keep it."""
    load = Load(str(llama_dir), device="cpu")
    recording = files.begin(load, engine.info)
    recording.write({"event": "model", "load": plain(load), "model": report.model_json(engine.info)})
    for schedule in ("", "drop 2"):
        request = Read(PROMPT, schedule)
        reading = answered(engine, request)[-1]
        recording.write({"event": "reading", "request": plain(request), "position": 3,
                         "numbers": short.of_reading(reading, 3)})  # fmt: skip
    recording.write({"event": "cursor", "position": 1, "row": 2, "numbers": short.of_position(reading, 1)})
    for request in (TakeSweep((PROMPT, "a lazy dog"), ("drop", "swap")), TakeAttribution(PROMPT, "drop 2")):
        replies = answered(engine, request)
        recording.write({"event": "answer", "request": plain(request), "kind": type(replies[-1]).__name__,
                         "numbers": short.of_replies(replies)})  # fmt: skip
    recording.write({"event": "note", "note": HOSTILE})
    recording.close()
    return recording.path


def replayed(path, **other):
    [*_, found] = replay(files.read(path), LocalEngine(), other)
    return found


def edited(path, change) -> None:
    """The file with each event changed by hand."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for event in lines:
        change(event)
    path.write_text("".join(json.dumps(event) + "\n" for event in lines))


@pytest.fixture
def run(capsys):
    def session(*words: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            cli.main(["session", *map(str, words)])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=out, err=err)

    return session


def test_what_was_recorded_is_found_again(recorded):
    found = replayed(recorded)
    assert not found.differences and not found.remarks
    assert found.answers == 5 and found.numbers > 300 and found.largest <= SAME


def test_another_dtype_is_said_and_compared_all_the_same(recorded):
    found = replayed(recorded, dtype="bfloat16")
    assert any("recorded with the dtype float32, run with bfloat16" in remark for remark in found.remarks)
    assert found.numbers > 300 and 0 < found.largest <= 1
    assert any("dtype" in remark for remark in found.remarks)


def test_a_number_changed_by_hand_is_named(recorded, run):
    def change(event):
        if event["event"] == "reading" and event["request"]["schedule"]:
            event["numbers"]["effect.kl_nats"][2] += 0.01

    edited(recorded, change)
    told = run("replay", recorded)
    assert told.code == 1
    [line] = [line for line in told.out.splitlines() if "effect.kl_nats[2]" in line]
    assert "drop 2" in line and "0.001" in line
    data = json.loads(run("replay", recorded, "--json").out)
    assert [one["what"] for one in data["differences"]] == ["drop 2: effect.kl_nats[2]"]


def test_what_cannot_be_asked_again_is_told(recorded, run):
    def change(event):
        if event["event"] == "answer":
            event["request"] = plain(FindHeads(file="/no/such/file")) if event["kind"] == "Sweep" else {"$type": HOSTILE}
        if event["event"] == "cursor":
            event["numbers"] = {"position": 999, HOSTILE: [[[[[HOSTILE]]]]]}
        if event["event"] == "session":
            event |= {"version": HOSTILE, "libraries": {"torch": HOSTILE}}

    edited(recorded, change)
    with recorded.open("a") as file:
        file.write('{"event": "of tomorrow", "t": 9}\n{"event": "no')
    told = run("replay", recorded)
    assert told.code == 1 and "/no/such/file" in told.out and "999" in told.out
    for remark in ("is no answer of this version", "recorded by stagescope", "recorded with torch", "of tomorrow", "is skipped"):
        assert remark in told.out
    assert not set(told.out + told.err) & set("\x1b\x07\u202e\udcff")


def test_near_ties_may_change_places_and_nothing_else_may():
    kept = {"output.top_ids": [[5, 7], [5, 7]], "output.top_p": [[0.4, 0.3999], [0.5, 0.2]], "effect.top1_same": [1.0, 1.0]}
    now = {"output.top_ids": [[7, 5], [7, 5]], "output.top_p": kept["output.top_p"], "effect.top1_same": [0.0, 0.0]}
    found = [what for what, _, _ in differing(kept, now, SAME)]
    assert found == ["output.top_ids[1][0]", "output.top_ids[1][1]", "effect.top1_same[1]"]
    assert not differing({"a": [1000.0, None]}, {"a": [1000.9, None]}, SAME)
    assert len(differing({"a": [1000.0, None, 2]}, {"a": [1002.0, 1.0]}, SAME)) == 3
    assert [allowed for *_, allowed in compare({"a": 0.5}, {"a": 0.5}, OTHER_DEVICE)] == [OTHER_DEVICE]


def test_a_session_is_listed_shown_named_and_exported(recorded, run, tmp_path):
    assert run("name", "last", "eiffel").code == run("tag", "last", "a", "b").code == run("note", "eiffel", HOSTILE[:-9]).code == 0
    listed = json.loads(run("list", "--json").out)["sessions"]
    assert [(one["name"], one["tags"], one["notes"]) for one in listed] == [("eiffel", ["a", "b"], 2)]
    shown = run("show", "eiffel")
    assert "read drop 2 (KL" in shown.out and "answer: Sweep" in shown.out and "#a #b" in shown.out
    assert not set(run("list").out + shown.out) & set("\x1b\x07\u202e\udcff")
    json.loads(run("show", "eiffel", "--json").out)

    whole, at = tmp_path / "last.json", tmp_path / "at.json"
    assert run("export", "eiffel", whole).out.strip() == str(whole)
    assert json.loads(whole.read_text())["schema"] == "attribution/1"
    assert run("export", "eiffel", at, "--event", "2").code == 0
    assert json.loads(at.read_text())["schedule"] == ""
    again = run("export", "eiffel", at, "--event", "3")
    assert again.code == 1 and "--force" in again.err and json.loads(at.read_text())["schedule"] == ""
    assert run("export", "eiffel", at, "--event", "3", "--force").code == 0
    assert json.loads(at.read_text())["schedule"] == "drop 2"
    assert run("export", "eiffel", tmp_path / "a.jsonl").code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == recorded.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [(("show", "nobody"), 3, "there is no session nobody"), (("replay",), 2, "SESSION"), ((), 2, "ACTION"),
     (("export", "last", "x.doc"), 1, "does not say which format"), (("export", "last", "x.json", "--event", "99"), 2, "no 99"),
     (("note", "last", " "), 2, "empty"), (("replay", "last", "--model", "/no/such"), 3, "/no/such")],
)  # fmt: skip
def test_mistakes_are_told(recorded, run, words, code, told):
    result = run(*words)
    assert result.code == code and told in result.err and not result.out


def test_a_session_that_an_app_holds_is_not_written_to(recorded, run):
    recording = files.go_on(recorded)
    refused = run("note", "last", "text")
    recording.let_go()
    assert refused.code == 3 and "open in another process" in refused.err
