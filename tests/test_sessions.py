"""Sessions: states and events lead to each other, files lose nothing and believe nothing, numbers are kept in short."""

import errno
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagescope import paths
from stagescope.answers import collected
from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import (
    DEFAULT_PROMPT,
    CorpusSweep,
    FindHeads,
    Generate,
    Load,
    MapStages,
    Progress,
    Read,
    Reading,
    ShowNeurons,
    ShowPattern,
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
from stagescope.engine.schedule import Schedule, parse
from stagescope.history import History, again
from stagescope.sessions import files, short, words
from stagescope.sessions.events import COLUMNS, VIEWS, State, changes, fold, plain, with_load
from stagescope.sessions.files import SessionError, begin, find, go_on, read

HOSTILE = "\x1b]52;c;aGk=\x07 \u202e \udcff <script> =cmd| '\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------------------------------- states and events


def histories():
    """What anyone may do to a schedule."""
    texts = st.sampled_from(["", "drop 1", "swap 2 3", "drop 1-4", "attn-off 2"])
    done = st.lists(st.tuples(st.sampled_from(["change", "undo", "redo", "baseline"]), texts), max_size=12)

    def carried_out(steps) -> History:
        history = History(Schedule())
        for how, text in steps:
            history.change(parse(text)) if how == "change" else getattr(history, how)()
        return history

    return done.map(carried_out)


@given(histories())
def test_a_history_is_made_again_from_its_log(history):
    made = again(history.log)
    for name in ("now", "before", "undone", "set_aside", "log"):
        assert str(getattr(made, name)) == str(getattr(history, name))


def states():
    text = st.text(max_size=8)
    return st.builds(
        State,
        load=st.builds(Load, model=text, device=st.none() | text, threads=st.none() | st.integers(1, 64)),
        prompt=text,
        schedules=histories().map(lambda history: tuple(history.log)),
        tracked=st.none() | st.integers(0, 2**20),
        lens=st.sampled_from(["standard", "v1"]),
        deck=st.lists(text, max_size=3, unique=True).map(tuple),
        guest=st.none() | text,
        view=st.sampled_from(VIEWS),
        column=st.sampled_from(COLUMNS),
        flipped=st.booleans(),
        screen=text,
        position=st.integers(-5, 5),
        row=st.none() | st.integers(0, 40),
    )


@settings(max_examples=50)
@given(states(), states())
def test_events_lead_from_one_state_to_the_other(before, now):
    events = [json.loads(json.dumps(event)) for event in changes(before, now)]
    assert fold(events, before) == now
    assert not list(changes(now, now))


@pytest.mark.parametrize(
    "event",
    [
        {"event": "prompt"}, {"event": "prompt", "prompt": 3}, {"event": "prompt", "prompt": None},
        {"event": "schedule", "how": "change", "schedule": "drop x"}, {"event": "schedule", "how": "now"},
        {"event": "schedule", "how": ["change"], "schedule": ["drop 1"]}, {"event": "schedule"},
        {"event": "deck", "deck": ["a", "a"]}, {"event": "deck", "deck": "abc", "guest": None},
        {"event": "deck", "deck": [["a"]]}, {"event": "deck", "deck": ["x"] * 100000},
        {"event": "cursor", "position": 1e300, "row": 1}, {"event": "cursor", "position": True},
        {"event": "cursor", "position": 2**70}, {"event": "tracked", "tracked": -1}, {"event": "lens", "lens": "v3"},
        {"event": "model", "load": {"$type": "Load"}}, {"event": "model", "load": {"$type": "Read"}},
        {"event": "model", "load": {**plain(Load()), "threads": "many"}}, {"event": "model", "load": [[[]]]},
        {"event": "view", "view": 1}, {"event": "view", "view": "hologram"}, {"event": "view", "column": "hologram"}, {"event": "view", "flipped": 1}, {"event": "of tomorrow", "prompt": "no"},
    ],
)  # fmt: skip
def test_what_cannot_be_changes_nothing(event):
    assert fold([event]) == State()


# -------------------------------------------------------------------------------------------------- files


def recorded() -> files.Recording:
    recording = begin(Load(model="tiny"))
    recording.write({"event": "prompt", "prompt": HOSTILE})
    recording.write({"event": "schedule", "how": "change", "schedule": "drop 3"})
    recording.write({"event": "note", "note": HOSTILE})
    recording.close()
    return recording


def test_what_was_written_is_read():
    path = recorded().path
    session = read(path)
    assert [event["event"] for event in session.events] == ["session", "prompt", "schedule", "note", "end"]
    header = session.events[0]
    assert header["schema"] == "session/1" and header["id"] == session.id and "torch" in header["libraries"]
    state = fold(session.events)
    assert (state.load.model, state.prompt, state.schedule) == ("tiny", HOSTILE, "drop 3") and not session.warnings
    assert oct(path.stat().st_mode)[-3:] == "600" and oct(path.parent.stat().st_mode)[-3:] == "700"
    assert find("last") == find(session.id) == find(session.id[:12]) == path


def test_a_file_cut_at_any_byte_opens_and_goes_on():
    whole = recorded().path
    data, events = whole.read_bytes(), read(whole).events
    path = whole.with_name("cut.jsonl")
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        session = read(path)
        complete = data[:cut].count(b"\n")
        assert session.events == events[:complete]
        assert len(session.warnings) == (cut > 0 and data[cut - 1 : cut] != b"\n")
        fold(session.events)
    path.write_bytes(data[:-20])
    recording = go_on(path)
    recording.write({"event": "note", "note": "later"})
    recording.close()
    session = read(path)
    assert [e["event"] for e in session.events] == [*(e["event"] for e in events[:-1]), "opened", "note", "end"]
    assert session.warnings == ("line 5 is skipped: it is no JSON",)


def test_files_of_others_are_told_from_sessions(home):
    path = home / "any.jsonl"
    for data in (b'{"text": "a corpus"}\n', b"\x00\xff", b"<html>", b'[{"event": "session"}]\n'):
        path.write_bytes(data)
        with pytest.raises(SessionError, match="is no session"):
            read(path)
    header = {"schema": "session/9", "id": "x", "event": "session", "t": 0, "load": plain(Load(model="tiny"))}
    deep = '{"event": "note", "t": 1, "note": ' + "[" * 100_000 + "}"
    lines = [header, {"event": "hologram", "t": 1}, {"event": "hologram", "t": 2}, "text", {"event": 7}, deep]
    lines += [{"event": "note"}, {"event": "note", "t": -1}, '{"event": "name", "t": ' + "9" * 5000 + "}"]
    path.write_text("".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    session = read(path)
    assert [event["event"] for event in session.events] == ["session", "hologram", "hologram"]
    told = " ".join(session.warnings)
    assert "session/9" in told and "2 events of a kind" in told and "hologram" in told and "line 6 is skipped" in told
    assert fold(session.events).load.model == "tiny"


def test_two_apps_have_two_files_and_a_session_one_writer():
    one, other = begin(Load()), begin(Load())
    assert one.path != other.path
    with pytest.raises(SessionError, match="open in another process"):
        go_on(one.path)
    for recording in (one, other):
        recording.write({"event": "note", "note": "mine"})
        recording.close()
    go_on(one.path).close()


def test_a_session_in_which_nothing_was_done_is_removed():
    idle = begin(Load())
    idle.write({"event": "prompt", "prompt": DEFAULT_PROMPT})
    idle.write({"event": "schedule", "how": "start", "schedule": ""})
    assert idle.path.exists()
    idle.close()
    idle.close()
    assert not idle.path.exists() and recorded().path.exists()


def test_a_full_disk_loses_nothing(monkeypatch):
    recording, write = begin(Load()), os.write

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for text in ("one", "two"):
        with pytest.raises(SessionError, match="No space left"):
            recording.write({"event": "note", "note": text})
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))  # a few bytes at a time
    recording.write({"event": "note", "note": "three"})
    recording.close()
    assert [event.get("note") for event in read(recording.path).events[1:]] == ["one", "two", "three", None]


@pytest.mark.parametrize("name", ["prompt", "note", "name", "tags", "answer", "export", "end"])
def test_what_matters_is_synced_to_the_disk_and_what_the_disk_says_is_told(name, monkeypatch):
    synced, fails = [], False

    def fsync(descriptor):
        synced.append(descriptor)
        if fails:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    recording = begin(Load())
    recording.synced.result()
    recording.write({"event": "cursor", "position": 1, "row": 1})
    assert len(synced) == 1  # the header; the cursor is in the system's hands, which is enough
    recording.write({"event": name, "prompt": "a"})
    recording.synced.result()
    assert synced == [recording.descriptor] * 2
    fails = True
    recording.write({"event": name, "prompt": "b"})
    with pytest.raises(OSError, match="Input/output"):
        recording.synced.result()
    with pytest.raises(SessionError, match="Input/output"):
        recording.write({"event": "cursor", "position": 2, "row": 1})
    fails = False
    recording.write({"event": "cursor", "position": 3, "row": 1})
    assert [event["position"] for event in read(recording.path).events if event["event"] == "cursor"] == [1, 2, 3]
    recording.let_go()


def test_what_is_added_from_outside_comes_after_the_last_event(monkeypatch):
    recording = recorded()
    events = read(recording.path).events
    later = json.dumps({"event": "note", "t": 1000.5, "note": "later"}).encode()
    recording.path.write_bytes(recording.path.read_bytes() + later + b"\n")
    added = files.added_to(recording.path)
    added.write({"event": "note", "note": "added"})
    added.let_go()
    *_, last = read(recording.path).events
    assert last["note"] == "added" and last["t"] >= 1000.5 and len(events) == 5


@pytest.mark.parametrize(
    ("event", "is_kept"),
    [
        ({"event": "view", "view": "tokens"}, True),
        ({"event": "lens", "lens": "v1"}, True),
        ({"event": "screen", "screen": "lens"}, True),
        ({"event": "deck", "deck": ["a"], "guest": None}, True),
        ({"event": "tracked", "tracked": 3, "tracked_text": "a"}, True),
        ({"event": "note", "note": "a"}, True),
        ({"event": "export", "format": "csv", "path": "a.csv"}, True),
        ({"event": "prompt", "prompt": "another"}, True),
        ({"event": "schedule", "how": "change", "schedule": "drop 1"}, True),
        ({"event": "model", "load": plain(Load("another")), "model": None}, True),
        ({"event": "model", "load": plain(Load()), "model": None}, False),
        ({"event": "schedule", "how": "start", "schedule": ""}, False),
        ({"event": "cursor", "position": 1, "row": 1}, False),
        ({"event": "reading"}, False),
        ({"event": "answer"}, False),
    ],
)
def test_one_thing_that_someone_does_is_reason_to_keep_a_session(event, is_kept):
    recording = begin(Load())
    recording.write(event)
    recording.close()
    assert recording.path.exists() is is_kept


def test_a_token_that_is_followed_is_one_of_its_model_s():
    state = State(tracked=7, tracked_text=" Paris")
    assert with_load(state, {"dtype": "bfloat16"}).tracked == 7
    other = with_load(state, {"model": "gpt2"})
    assert (other.load.model, other.tracked, other.tracked_text) == ("gpt2", None, "")


def test_a_seed_has_as_many_digits_as_it_may_have():
    recording = recorded()
    request = plain(Generate("a", temperature=1.0, seed=2**63 - 1))
    added = files.added_to(recording.path)
    added.write({"event": "answer", "request": request, "kind": "Generation", "numbers": {}})
    added.let_go()
    session = read(recording.path)
    assert not session.warnings and session.events[-1]["request"]["seed"] == 2**63 - 1


def test_what_stands_in_the_folder_s_place_is_told(home):
    (home / "data").mkdir(parents=True)
    (home / "data" / "sessions").touch()
    for look in (lambda: find("last"), lambda: list(files.all_sessions())):
        with pytest.raises(SessionError, match="is no folder"):
            look()


def test_an_unwritable_place_is_told(home):
    (home / "data").write_text("a file in the folder's place")
    with pytest.raises(SessionError, match="no session can be kept"):
        begin(Load())


def test_names_tags_and_what_is_not_there():
    recording = recorded()
    more = go_on(recording.path)
    for event in ({"name": "eiffel"}, {"name": "paris"}, {"tags": ["a", "b"]}, {"tags": ["b", "c", 3]}, {"tags": 7}):
        more.write({"event": next(iter(event)), **event})
    more.close()
    session = read(recording.path)
    assert session.name == "paris" and session.tags == ("a", "b", "c") and find("paris") == recording.path
    recorded()
    with pytest.raises(SessionError, match="2 sessions are called 20"):
        find("20")
    for name in ("nobody", "", "/no/such.jsonl"):
        with pytest.raises(SessionError, match="there is no"):
            find(name)
    assert len(list(files.all_sessions())) == 2 and paths.describe()["data"] in recording.path.parents


# ----------------------------------------------------------------------------------------- numbers in short


async def answers(request):
    """Of a fake engine with six layers."""
    engine = FakeEngine(6)
    [_ async for _ in engine.ask(Load())]
    return [reply async for reply in engine.ask(request) if not isinstance(reply, Progress)]


async def test_a_reading_in_short():
    [*_, reading] = await answers(Read("a b c", "drop 2"))
    assert isinstance(reading, Reading)
    kept = short.of_reading(reading, -1)
    last = len(reading.tokens) - 1
    assert kept["position"] == last
    assert kept["effect.kl_nats"][last] == pytest.approx(reading.effect_kl_nats[last], 1e-6)
    for name in ("entropy_bits", "kl_final_nats", "tracked_rank", "attn_norm"):
        held = [np.nan if value is None else value for value in kept[f"depths.{name}"]]
        np.testing.assert_allclose(held, getattr(reading, name)[:, last], rtol=1e-6)
    assert kept["depths.top_ids"] == reading.top_ids[:, last, :2].tolist()
    assert kept["depths.attn_norm"][0] is None  # of the embedding there is none
    json.dumps(kept, allow_nan=False)
    assert not any(name.startswith("effect") for name in short.of_reading(reading.baseline, 0))


@pytest.mark.parametrize("request_", [TakeSweep(("a b c", "d")), TakeProbe()], ids=["sweep", "probe"])
async def test_any_answer_in_short(request_):
    kept = short.of_replies(await answers(request_))
    text = json.dumps(kept, allow_nan=False)
    assert kept and len(text) < 200_000
    assert not any(word in name for name in kept for word in ("milliseconds", "model", "texts"))


READING = (
    "positions layers entropy_bits kl_final_nats top_p tracked_rank tracked_p resid_norm attn_norm mlp_norm baseline_depth kl_nats "
    "resid_rel resid_cos top1_count effect_kl_nats effect_top1_count effect_entropy_bits baseline"
)
OF_NEURONS = "layer index size contrast train accuracy low high"
OF_ROWS = "layer index kurtosis skew variance consistency promoted promoted_cos suppressed suppressed_cos"
SUBLAYERS = "layers logit constant embedding attn mlp scale edited"
TEXTS = Texts(("a b c",))
KEPT = {  # kind of answer -> all that is measured of it
    TakeSweep(("a b c",)): {
        "Sweep": "positions done kl_nats top1_count entropy_change_bits loss_change_nats tracked_rank tracked_p base_entropy_bits "
        "base_loss_nats base_tracked_rank base_tracked_p"
    },
    TakeCensus(): {
        "Census": "null_directions null_above d_mlp high prediction suppression unsigned partition variance skew kurtosis consistency"
    },
    TakeEvidence(TEXTS): {
        "Evidence": "documents tokens_scored summary sums counts head_prev head_no_sink head_sink uniform uniform_no_sink uniform_sink "
        "n_skipped n_cut complete"
    },
    TakeLens("a b c"): {"LensCurves": "position layers entropy_bits kl_final_nats rank p logit"},
    ShowNeurons(prompt="a b c"): {"Neurons": "layer activation", "Neurons.rows": OF_ROWS},
    MapStages(TEXTS): {
        "CorpusSweep": "documents tokens_scored kl_nats top1_same entropy_change_bits loss_change_nats n_skipped n_cut sums counts",
        "StageMap": "documents tokens_scored curves",
        "StageMap.stages": "first_layer low high last_layer visible",
        "StageMap.stages.evidence": "first before after explained needed agrees",
    },
    FindHeads(): {"HeadScores": "pieces words held_words score held joined control"},
    ShowPattern("a b c", 2, 1): {"HeadPattern": "layer head pattern"},
    TakeAttribution("a b c", "drop 3"): {"Attribution": SUBLAYERS, "Attribution.baseline": f"{SUBLAYERS} baseline"},
    TakeSimilarity(TEXTS): {"Similarity": "documents tokens_scored influence angular cka cka_tokens n_skipped n_cut"},
    TakeProbe(): {
        "Probe": "context train held",
        **{f"Probe.{name}": OF_NEURONS for name in ("neurons", "ensembles", "mass", "argmax")},
    },
    TakeComparison(Read("a b c"), Read("a b c", "drop 3")): {
        "Comparison": "pairs kl_nats top1_count resid_rel resid_cos effect_kl_nats effect_top1_count effect_entropy_bits",
        **{f"Comparison.{side}": READING for side in "ab"},
    },
    Generate("a b c", ("drop 3",)): {
        "Generation": "ids p base_p entropy_bits base_entropy_bits kl_nats forced_p forced_kl_nats ended reads_back complete",
        "Generation.asked": "temperature top_k top_p seed",
    },
}


@pytest.mark.parametrize("request_", KEPT, ids=lambda request: type(request).__name__)
async def test_all_that_is_measured_is_kept(request_):
    """A replay, which keeps and compares by the same code, would not miss what is left out."""
    kept = short.of_replies(collected(await answers(request_)))
    names = {re.sub(r"\[\d+\]|(?<=^Sweep) 2", "", name) for name in kept}
    wanted = {f"{place}.{name}" for place, told in KEPT[request_].items() for name in told.split()}
    kinds = {name.partition(".")[0] for name in wanted}  # a map comes with all it is made of
    assert {name for name in names if name.partition(".")[0] in kinds} == wanted


async def test_answers_of_one_kind_and_things_in_a_list_are_each_kept():
    sweeps = collected(await answers(TakeSweep(("a b c", "d e f g"))))
    kept = short.of_replies(sweeps)
    for number, sweep in enumerate(sweeps, 1):
        name = "Sweep" if number == 1 else f"Sweep {number}"
        assert kept[f"{name}.kl_nats"] == short.listed(sweep.kl_nats) and len(kept[f"{name}.positions"]) == len(sweep.tokens)
        assert kept[f"{name}.top1_count"] == np.nansum(sweep.top1_same, -1).tolist()
    assert len(sweeps) == 4
    (probe,) = collected(await answers(TakeProbe()))
    kept = short.of_replies((probe,))
    assert [kept[f"Probe.neurons[{index}].accuracy"] for index in range(len(probe.neurons))] == [
        pytest.approx(one.accuracy, rel=1e-6) for one in probe.neurons
    ]
    *_, pooled = [reply for reply in await answers(MapStages(TEXTS)) if isinstance(reply, CorpusSweep)]
    ones = replace(pooled, top1_same=np.ones_like(pooled.top1_same))
    assert "CorpusSweep.top1_same" in short.of_replies((ones,))  # shares, though they could be counts


async def test_of_an_edit_the_stack_s_own_columns_are_kept():
    [*_, reading] = await answers(Read("a b c", "drop 2"))
    kept, last = short.of_position(reading, 1), 1
    for name in ("kl_nats", "top1_same", "tracked_p", "mlp_norm", "attn_norm", "tracked_rank", "kl_final_nats", "entropy_bits"):
        assert kept[f"depths.{name}"] == short.listed(getattr(reading, name)[:, last])
    assert set(short.of_reading(reading, 1)) - set(kept) == {
        "effect.kl_nats", "effect.top1_same", "effect.entropy_change_bits", "output.entropy_bits", "output.top_ids", "output.top_p"
    }  # fmt: skip


def test_of_large_arrays_some_are_kept_and_nan_is_none():
    array = np.arange(2000, dtype=np.float32).reshape(2, 1000)
    array[1] = np.nan
    kept = short._reduced(array)
    assert len(kept) == 512 and kept[0] == 0.0 and kept[1] == round(1999 / 511) and kept[-1] is None
    assert short._reduced(array[:1].astype(int).repeat(2)) is None
    assert short.listed(np.array([[1.23456789, np.inf]])) == [[1.234568, None]]


def test_a_pattern_and_its_reverse_are_told_apart():
    """All rows of a pattern sum to 1, and so would their means be alike."""
    pattern = np.tril(np.random.default_rng(0).random((40, 40))).astype(np.float32)
    pattern /= pattern.sum(1, keepdims=True)
    assert short._reduced(pattern) != short._reduced(np.ascontiguousarray(pattern[:, ::-1]))


def test_the_last_session_is_the_one_written_last(home):
    first, second = files.begin(Load()), files.begin(Load())
    for recording, time in ((first, 2_000_000_000), (second, 1_900_000_000)):
        recording.write({"event": "note", "note": "a"})
        recording.let_go()
        os.utime(recording.path, (time, time))
    assert files.find("last") == first.path


def test_what_is_asked_of_a_session_opened_again_is_not_remembered_before_it_was_loaded(home):
    recording = files.begin(Load())
    recording.write({"event": "note", "note": "a"})
    recording.let_go()
    files.go_on(recording.path, Load(device="cuda")).let_go()
    assert fold(files.read(recording.path).events).load == Load()


def test_events_that_cannot_be_are_told(home):
    recording = files.begin(Load())
    recording.write({"event": "note", "note": "a"})
    recording.let_go()
    with open(recording.path, "a") as file:
        for event in ({"event": "cursor", "t": 1, "position": "x"}, {"event": "schedule", "t": 2, "how": [], "schedule": "drop 1"}):
            file.write(json.dumps(event) + "\n")
    assert files.read(recording.path).warnings == tuple(
        f"line {n} changes nothing: what it carries cannot be" for n in (3, 4)
    )


def test_the_clock_goes_on_where_a_session_was_opened_again():
    events = [{"event": name, "t": t} for name, t in (("session", 0), ("note", 59.96), ("opened", 0.0), ("note", 120.04))]
    assert [words.clock(at) for at in words.times(events)] == ["0:00.0", "1:00.0", "1:00.0", "3:00.0"]


def test_the_effect_told_is_that_of_the_output_at_the_token_looked_at():
    """Without its last layer a run ends a depth sooner, where the baseline is compared with as well."""
    numbers = {"depths.kl_nats": [0, 0.4], "effect.kl_nats": [0, 1.5, 2.331]}
    event = {"event": "reading", "t": 0, "request": {"schedule": "drop 29"}, "position": 1, "numbers": numbers}
    assert words.told(event) == "read drop 29 (KL 1.5 at token 1)"
    for changes in ({"position": 9}, {"position": True}, {"numbers": {"effect.kl_nats": [None, None]}}, {"numbers": 3}):
        assert words.told(event | changes) == "read drop 29"


def test_a_text_written_says_which():
    request = {"schedules": ["drop 14", "\x1b[2J"], "temperature": 0.8, "seed": 3, "tokens": 40}
    event = {"event": "answer", "t": 0, "request": request, "kind": "Generation", "numbers": {}}
    told = words.told(event)
    assert told == "answer: Generation, up to 40 tokens of the baseline beside drop 14 beside \\u{1b}[2J, temperature 0.8, seed 3"
    assert words.told(event | {"request": request | {"schedules": [], "temperature": 0}}).endswith("of the baseline, greedy")
    assert words.told(event | {"request": 3}) == words.told(event | {"request": {"schedules": 3}}) == "answer: Generation"


def test_a_line_that_is_too_long_is_one_line(monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 400)
    recording = begin(Load("m"))
    recording.let_go()
    header = recording.path.read_bytes()
    note = b'{"event": "note", "t": 1, "note": "a"}\n'
    for long in (b"x" * 1999 + b"\n", b"x" * 400 + b"\n", b"x" * 399 + b"\n", b"x" * 2000):
        monkeypatch.setattr(files, "LONGEST", max(400, len(header) + 1))
        at = files.LONGEST
        line = b"x" * (5 * at) + long
        recording.path.write_bytes(header + line + b"\n" * (not line.endswith(b"\n")) + note + note[:-1])
        found = read(recording.path)
        assert [event["event"] for event in found.events] == ["session", "note"]
        assert [warning.partition(" is")[0] for warning in found.warnings] == ["line 2", "line 4"]
