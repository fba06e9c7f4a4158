"""A session run again: equal when nothing changed, and every number that is not is named. On a tiny model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from stagescope import cli
from stagescope.answers import collected
from stagescope.engine import cache
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import EngineError, FindHeads, Load, Progress, Read, TakeAttribution, TakeSweep
from stagescope.reports import reading as report
from stagescope.sessions import files, short
from stagescope.sessions.events import plain
from stagescope.sessions.replay import HALF, OTHER_DEVICE, OTHER_DTYPE, SAME, differing, replay, steps, tolerance_of

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
    now, _ = run_with(recorded, dtype="bfloat16")
    assert found.numbers > 300 and tolerance_of({"dtype": "float32"}, now) == OTHER_DTYPE
    edited(recorded, lambda event: event.update(model=report.model_json(now)) if event.get("model") else None)
    same = replayed(recorded, dtype="bfloat16")  # as if it had been recorded so: what is far apart is told now
    assert len(same.differences) > len(found.differences)


def run_with(path, **other):
    engine = LocalEngine()
    [*_, found] = replay(files.read(path), engine, other)
    return engine.info, found


@pytest.mark.parametrize(
    ("recorded", "now", "expected"),
    [
        (("float32", "cpu"), ("float32", "cpu"), SAME),
        (("float32", "cuda:0"), ("float32", "cuda:1"), SAME),
        (("float32", "cuda:0"), ("float32", "cpu"), OTHER_DEVICE),
        (("bfloat16", "cuda:0"), ("bfloat16", "cpu"), HALF),
        (("float16", "cpu"), ("bfloat16", "cpu"), OTHER_DTYPE),
        (("float32", "cpu"), ("bfloat16", "cpu"), OTHER_DTYPE),
        ((None, None), ("bfloat16", "cpu"), HALF),
    ],
)
def test_what_is_allowed_depends_on_dtype_and_device(engine, recorded, now, expected):
    was = {name: value for name, value in zip(("dtype", "device"), recorded, strict=True) if value}
    assert tolerance_of(was, replace(engine.info, dtype=now[0], device=now[1])) == expected


def test_nothing_is_taken_from_the_cache(recorded, llama_dir):
    """A number that was kept would be compared with itself."""
    load = Load(str(llama_dir), device="cpu")
    kept = LocalEngine()
    for request in (load, Read(PROMPT, "drop 2", part="whole")):
        for _ in kept.answer(request):
            pass
    (found,) = kept.known(Read(PROMPT, "drop 2"))
    for entry in cache.folder().glob("reading-*"):
        cache.put(entry.stem, replace(found, kl_nats=found.kl_nats + 1, cached=False))
    assert kept.known(Read(PROMPT, "drop 2"))[0].kl_nats[-1, 1] > 1
    assert not replayed(recorded).differences


def test_two_edits_looked_at_in_turn_are_each_run(recorded):
    """What the cursor told is of the reading before it, and another in between is not taken for it."""
    lines = recorded.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if '"event": "reading"' in line)
    recorded.write_text("\n".join([*lines, lines[first], lines[first + 2]]) + "\n")  # the baseline again, and the edit's cursor
    found = replayed(recorded)
    assert found.differences and {one.event for one in found.differences} == {len(lines) + 1}


def test_a_model_loaded_anew_reads_anew(recorded, llama_dir):
    asked = []

    class Told(LocalEngine):
        def answer(self, request):
            asked.append(request)
            return super().answer(request)

    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    reading = [event for event in lines if event["event"] == "reading"][-1]
    model = {"event": "model", "t": 9, "load": plain(Load(str(llama_dir), device="cpu", threads=1)), "model": None}
    events = [*(event for event in lines if event["event"] != "answer"), model, {**reading, "t": 9}]
    recorded.write_text("".join(json.dumps(event) + "\n" for event in events))
    [*_, found] = replay(files.read(recorded), Told())
    assert not found.differences and [type(request) for request in asked] == [Load, Read, Read, Load, Read]


def test_a_session_of_which_nothing_can_be_compared_is_no_agreement(recorded, run):
    edited(recorded, lambda event: event.update(numbers=7) if "numbers" in event else None)
    told = run("replay", recorded)
    assert told.code == 1 and "it keeps no answer that can be read" in told.out
    lines = recorded.read_text().splitlines(keepends=True)
    recorded.write_text(lines[0])
    told = run("replay", recorded)
    assert told.code == 0 and "it keeps no answer, there is nothing to compare" in told.out


def test_a_device_that_is_not_here_is_said_and_all_is_compared(recorded):
    edited(recorded, lambda event: event["load"].update(device="cuda:7") if "load" in event else None)
    found = replayed(recorded)
    assert "cuda:7 is not here: run on cpu" in found.remarks and not found.differences and found.answers == 5
    with pytest.raises(EngineError, match="cuda:8 was asked for"):
        replayed(recorded, device="cuda:8")  # that was asked for now


def test_a_number_that_was_not_kept_is_told(recorded):
    edited(recorded, lambda event: event["numbers"].pop("depths.entropy_bits") if event["event"] == "cursor" else None)
    assert any("keeps no depths.entropy_bits" in remark for remark in replayed(recorded).remarks)


def test_a_reading_belongs_to_the_model_it_was_made_with(recorded):
    """Opened again with another model, readings come from the cache before its weights are there."""
    other = Load("/another/model", device="cpu")
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    reading = next(event for event in lines if event["event"] == "reading")
    opened = {"event": "opened", "t": 9, "load": plain(other), "model": None}
    recorded.write_text("".join(json.dumps(event) + "\n" for event in (*lines, opened, {**reading, "t": 9})))
    *_, last = steps(files.read(recorded).events)
    assert last.load == other and last.model == {}


def test_what_comes_by_again_is_a_step_without_numbers_of_its_own(recorded):
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    again = {key: value for key, value in next(event for event in lines if event["event"] == "reading").items() if key != "numbers"}
    cursor = {"event": "cursor", "t": 9, "position": 2, "row": 1}
    recorded.write_text("".join(json.dumps(event) + "\n" for event in (*lines, {**again, "t": 9}, cursor)))
    *_, reading, moved = steps(files.read(recorded).events)
    assert (reading.request, reading.position, reading.numbers) == (Read(PROMPT), 3, None)
    assert (moved.request, moved.position, moved.numbers) == (Read(PROMPT), 2, None)
    assert replayed(recorded).answers == 5


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


@pytest.mark.parametrize(
    ("name", "recorded", "now", "tolerance", "differs"),
    [
        ("X.kl_nats", 0.5, 0.5009, SAME, False),
        ("X.kl_nats", 0.5, 0.5011, SAME, True),
        ("X.kl_nats", 1000.0, 1000.9, SAME, False),
        ("X.kl_nats", 1000.0, 1002.0, SAME, True),
        ("X.kl_nats", 0.5, 0.5011, OTHER_DEVICE, False),
        ("X.kl_nats", 3.0, 4.4, OTHER_DTYPE, False),
        ("X.p", 0.9, 0.86, OTHER_DTYPE, False),
        ("X.p", 0.9, 0.41, OTHER_DTYPE, True),
        ("X.cka", 0.9, 0.41, OTHER_DTYPE, True),
        ("Generation.ids", 30000, 30001, OTHER_DTYPE, True),
        ("X.documents", 1000, 1001, OTHER_DTYPE, True),
        ("X.visible", True, False, OTHER_DTYPE, True),
        ("tracked", 1000, 1001, OTHER_DTYPE, True),
        ("position", 10, 11, OTHER_DTYPE, True),
        ("X.first", None, 3, OTHER_DTYPE, True),
        ("X.first", 3, None, OTHER_DTYPE, True),
        ("X.first", None, None, SAME, False),
        ("Census.high", 30, 31, SAME, False),
        ("Census.high", 30, 32, SAME, True),
        ("Census.high", 300, 316, OTHER_DTYPE, True),
        ("Sweep.top1_count", 40, 39, SAME, False),
        ("Sweep.top1_count", 40, 38, SAME, True),
        ("Sweep.top1_count", 40, 0, OTHER_DTYPE, True),
        ("Comparison.effect_top1_count", 40, 39, SAME, False),
        ("X.rank", 1.0, 2.0, SAME, False),
        ("X.rank", 1.0, 3.0, SAME, True),
        ("X.rank", 1000, 1009, SAME, False),
        ("X.rank", 1000, 1011, SAME, True),
        ("X.rank", 10, 1, OTHER_DTYPE, True),
        ("X.rank", 1, 10, OTHER_DTYPE, True),
        ("X.rank", 20, 100, OTHER_DTYPE, False),
        ("X.rank", 1025, 6, OTHER_DTYPE, True),
        ("Sweep.tracked_rank", 1.0, 2.0, SAME, False),  # there p of the second is not kept
    ],
)
def test_what_a_number_may_differ_by(name, recorded, now, tolerance, differs):
    assert bool(differing({name: [recorded]}, {name: [now]}, tolerance)) is differs
    assert bool(differing({name: [[0.0], [recorded]]}, {name: [[0.0], [now]]}, tolerance)) is differs
    assert differing({name: [recorded]}, {}, SAME) == ([] if recorded is None else [(f"{name}[0]", recorded, None)])


@pytest.mark.parametrize(
    ("p", "ids", "p_now", "differs"),
    [
        ((0.4, 0.3999), (7, 5), (0.4, 0.3999), []),  # a tie: they change places
        ((0.5, 0.2), (7, 5), (0.5, 0.2), [0, 1]),  # none
        ((0.4, 0.3999), (9, 8), (0.4, 0.3999), [0, 1]),  # others than the two
        ((0.4, 0.01), (5, 9), (0.4, 0.0099), []),  # little is left, and a third is as likely as the second
        ((0.4, 0.01), (5, 9), (0.4, 0.007), [1]),  # ... not as likely
        ((0.4, 0.3), (5, 9), (0.4, 0.3), [1]),  # ... much is left
        ((0.004, 0.00399), (9, 7), (0.004, 0.00399), []),  # flat: any of many comes first
        ((0.001, 0.0005), (7, 5), (0.001, 0.0005), [0, 1]),  # small, but twice as likely
    ],
)
def test_near_ties_may_change_places_and_nothing_else_may(p, ids, p_now, differs):
    kept = {"output.top_ids": [[0, 1], [5, 7]], "output.top_p": [[0.9, 0.1], list(p)], "effect.top1_same": [1.0, 1.0]}
    now = {"output.top_ids": [[0, 1], list(ids)], "output.top_p": [[0.9, 0.1], list(p_now)], "effect.top1_same": [1.0, 1.0]}
    found = [what for what, _, _ in differing(kept, now, SAME) if "ids" in what]
    assert found == [f"output.top_ids[1][{place}]" for place in differs]


def test_top1_and_the_first_rank_turn_in_a_tie_alone():
    for p, sure in (((0.4, 0.3999), False), ((0.5, 0.2), True)):
        kept = {"output.top_p": [list(p)], "effect.top1_same": [1.0], "depths.top_p": [list(p)], "depths.tracked_rank": [1.0]}
        now = {**kept, "effect.top1_same": [0.0], "depths.tracked_rank": [2.0]}
        assert [what for what, _, _ in differing(kept, now, SAME)] == ["effect.top1_same[0]", "depths.tracked_rank[0]"] * sure
    assert not differing({"d.top_p": [[0.5, 0.2]], "d.tracked_rank": [30.0]}, {"d.top_p": [[0.5, 0.2]], "d.tracked_rank": [31.0]}, SAME)


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
    made = json.loads(whole.read_text())  # the sweep and the attribution after it ran beside the stack
    assert (made["schema"], made["schedule"]) == ("reading/1", "drop 2")
    of_answer = max(index for index, event in enumerate(files.read(recorded).events) if event["event"] == "answer")
    assert run("export", "eiffel", tmp_path / "answer.json", "--event", of_answer).code == 0
    assert json.loads((tmp_path / "answer.json").read_text())["schema"] == "attribution/1"
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
     (("export", "last", "x.doc"), 1, "does not say which format it is: end its name in one of .json"),
     (("export", "last", "x.doc"), 1, ".jsonl"), (("export", "last", "x.json", "--event", "99"), 2, "no 99"),
     (("note", "last", " "), 2, "empty"), (("replay", "last", "--model", "/no/such"), 3, "/no/such")],
)  # fmt: skip
def test_mistakes_are_told(recorded, run, words, code, told):
    result = run(*words)
    assert result.code == code and told in result.err and not result.out


def test_what_is_deleted_is_named_in_full(recorded, run):
    start = recorded.stem[:-2]
    refused = run("delete", start)
    assert refused.code == 3 and f"such as {recorded.stem}" in refused.err and recorded.exists()
    assert run("show", start).code == 0
    assert run("delete", recorded.stem).code == 0 and not recorded.exists()


def test_a_session_that_an_app_holds_is_not_written_to(recorded, run):
    recording = files.go_on(recorded)
    refused = run("note", "last", "text")
    recording.let_go()
    assert refused.code == 3 and "open in another process" in refused.err
