"""The Python door: what it imports, gives, shows and refuses. On tiny random models; numbers against numpy."""

import ast
import asyncio
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import typing
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_subjoiners
import tiny_models
from rich.console import Console
from transformers import AutoTokenizer

import stagescope as ss
from stagescope import showing
from stagescope.answers import Answer, collected
from stagescope.engine import fake, protocol
from stagescope.engine.local import LocalEngine
from stagescope.engine.told import Told
from stagescope.exports import again

PROMPT, OTHER = "the quick brown fox", "a lazy dog"  # 17 and 9 tokens, of which the first is the prefix
N, D_VOCAB, END = tiny_models.N_LAYERS, tiny_models.N_TOKENS, tiny_models.END
HOSTILE = "\x1b]52;c;AA\x07<script>alert(1)</script>[/b] \u202e&amp; 'x' \"y\""
JOINED = ["tha", "tho", "fi"]  # tokens of the tokenizer whose words have pieces


@pytest.fixture(scope="module")
def m(llama_dir) -> ss.Model:
    return ss.load(str(llama_dir), device="cpu", cache=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> ss.Model:
    """Other weights, the same vocabulary."""
    directory = tiny_models.build("llama", tmp_path_factory.mktemp("other"), seed=5)
    return ss.load(directory, device="cpu", cache=False)


@pytest.fixture(scope="module")
def joiner_dir(tmp_path_factory) -> Path:
    """The tiny Llama with a tokenizer that has words of one token and words of pieces."""
    directory = tiny_models.build("llama", tmp_path_factory.mktemp("joiner"))
    test_subjoiners.tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def joiner(joiner_dir) -> ss.Model:
    return ss.load(joiner_dir, device="cpu", cache=False)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A text of that tokenizer's words."""
    file = tmp_path_factory.mktemp("words") / "words.txt"
    file.write_text(test_subjoiners.text())
    return file


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"{line}\n" for line in tiny_models.TEXT))
    return file


def distributions(reading: ss.Reading) -> np.ndarray:
    """[N, T, V] float64 of a reading that kept the whole vocabulary."""
    p = np.full((*reading.top_ids.shape[:2], D_VOCAB), np.nan)
    np.put_along_axis(p, reading.top_ids.astype(np.int64), reading.top_p.astype(np.float64), -1)
    return p


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def bits(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(p)).sum(-1)


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


# --------------------------------------------------------------------------------------------------- the package


def test_every_public_name_is_there_once_it_is_asked_for() -> None:
    for name in ss.__all__:
        assert getattr(ss, name) is not None and name in dir(ss)
    with pytest.raises(AttributeError, match="'stagescope' has no attribute 'reed'"):
        ss.reed  # noqa: B018


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(ss.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {alias.asname: (node.module, alias.name) for node in checked.body for alias in node.names}
    assert {*seen, "__version__"} == set(ss.__all__)
    for name, (module, original) in seen.items():
        assert getattr(sys.modules[module], original) is getattr(ss, name)


def test_the_import_alone_is_light() -> None:
    heavy = "numpy torch textual rich pandas transformers transformer_lens sklearn msgpack".split()
    code = f"import sys, stagescope; print(dir(stagescope) and [name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_request_can_be_named_by_who_asks() -> None:
    assert {request.__name__ for request in typing.get_args(protocol.Request)} <= set(ss.__all__)


# ------------------------------------------------------------------------------------------- numbers of a reading


def assert_same(a, b) -> None:
    """Two answers, array by array; what differs from one run to the next is left out."""
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two, err_msg=field.name)
        elif dataclasses.is_dataclass(one):
            assert_same(one, two)
        elif field.name not in ("milliseconds", "load_seconds", "cached"):
            assert one == two, field.name


def test_a_reading_is_what_the_engine_answers(m, llama_dir) -> None:
    engine = LocalEngine()
    for _ in engine.answer(ss.Load(str(llama_dir), device="cpu", cache=False)):
        pass
    *_, direct = engine.answer(ss.Read(PROMPT, "drop 2"))
    found = m.read(PROMPT, "drop 2")
    assert_same(found, direct)
    assert found.entropy_bits.shape == (N, 17) and found.baseline.n_depths == N + 1


def test_its_numbers_follow_from_the_distributions(m) -> None:
    edit = m.read(PROMPT, "drop 2", top=D_VOCAB)
    p, base = distributions(edit), distributions(edit.baseline)
    assert not np.isnan(p).any()
    close(edit.entropy_bits, bits(p))
    close(edit.kl_final_nats, kl(p[-1], p))
    assert edit.baseline_depth == (0, 1, 2, 4, 5, 6)
    close(edit.kl_nats, kl(base[list(edit.baseline_depth)], p))
    close(edit.effect_kl_nats, kl(base[-1], p[-1]))
    close(edit.effect_entropy_bits, bits(p[-1]) - bits(base[-1]))
    assert edit.tracked.tolist() == base[-1].argmax(-1).tolist()
    followed = np.take_along_axis(p, edit.tracked[None, :, None].astype(np.int64), -1)
    close(edit.tracked_p, followed[..., 0])
    assert (edit.tracked_rank == 1 + (p > followed).sum(-1)).all()
    assert edit.effect_kl_nats[1:].min() > 0.05  # what is compared differs


def test_a_position_counts_from_either_end(m) -> None:
    ahead, back = m.read(PROMPT, position=15), m.read(PROMPT, position=-2)
    assert str(ahead) == str(back) != str(m.read(PROMPT)) and "[o]" in str(back)
    assert ahead.to_json()["position"] == back.to_json()["position"] == 15
    assert m.lens(PROMPT, position=-2).position == 15
    assert m.attribution(PROMPT, position=-2).to_json()["position"] == 15


def test_a_token_is_followed_by_its_text_or_its_id(m, llama_dir) -> None:
    the = AutoTokenizer.from_pretrained(llama_dir).convert_tokens_to_ids("Ġthe")
    by_text, by_id = m.read(PROMPT, tracked="the", top=D_VOCAB), m.read(PROMPT, tracked=the)
    assert by_text.tracked.tolist() == by_id.tracked.tolist() == [the] * 17
    close(by_text.tracked_p, distributions(by_text)[..., the])
    np.testing.assert_array_equal(by_text.tracked_rank, by_id.tracked_rank)
    assert m.sweep(PROMPT, kinds="drop", tracked="the")[0].tracked.tolist() == [the] * 17
    assert m.attribution(PROMPT, tracked="the").tracked.tolist() == [the] * 17
    for tokens in ("the", the, [the], ("the", the)):  # one token, however it is said
        assert [token.id for token in m.lens(PROMPT, tokens=tokens).followed] == [the]


def test_a_schedule_may_be_parsed_already(m) -> None:
    assert_same(m.read(PROMPT, ss.parse("DROP 2")), m.read(PROMPT, "drop 2"))
    with pytest.raises(ss.ScheduleError, match="did you mean drop"):
        ss.parse("drp 2")


def test_the_prefix_token_can_be_left_out(llama_dir) -> None:
    with ss.load(llama_dir, device="cpu", bos="none", cache=False) as bare:
        assert bare.info.prefix is None and len(bare.read(PROMPT).tokens) == 16


# -------------------------------------------------------------------------------------------- every other question

CALLS = {
    "read": (lambda m, file: m.read(PROMPT, "drop 2"), ss.Reading),
    "sweep": (lambda m, file: m.sweep(PROMPT), ss.Sweeps),
    "sweep_corpus": (lambda m, file: m.sweep_corpus(file, kinds="drop", tokens=200, window=32), ss.CorpusSweep),
    "census": (lambda m, file: m.census(), ss.Census),
    "neurons": (lambda m, file: m.neurons(PROMPT, layer=4, most=2), ss.Neurons),
    "lens": (lambda m, file: m.lens(PROMPT, "drop 2", tokens=["fi", 7]), ss.LensCurves),
    "evidence": (lambda m, file: m.evidence(PROMPT), ss.Evidence),
    "stages": (lambda m, file: m.stages(PROMPT, OTHER), ss.StageMap),
    "heads": (lambda m, file: m.heads(file), ss.HeadScores),
    "pattern": (lambda m, file: m.pattern(PROMPT, 1, 3), ss.HeadPattern),
    "attribution": (lambda m, file: m.attribution(PROMPT, "drop 2"), ss.Attribution),
    "similarity": (lambda m, file: m.similarity(PROMPT, OTHER), ss.Similarity),
    "probe": (lambda m, file: m.probe(file, tokens=JOINED, most=80), ss.Probe),
    "compare": (lambda m, file: m.compare(ss.Read(PROMPT), ss.Read(PROMPT, "drop 2")), ss.Comparison),
    "generate": (lambda m, file: m.generate(PROMPT, "drop 2", tokens=5), ss.Generation),
    "ask": (lambda m, file: m.ask(ss.FindToken("fi")), ss.Answer),
}


@pytest.fixture(scope="module")
def answers(joiner, words) -> dict[str, Told]:
    """What every method gives, on the model whose text has words enough for all of them."""
    return {name: call(joiner, words) for name, (call, _) in CALLS.items()}


def test_every_method_gives_its_type(answers) -> None:
    methods = {name for name in vars(ss.Model) if not name.startswith("_")} - {"info", "close"}
    assert methods == set(CALLS)
    assert {name: type(found) for name, found in answers.items()} == {name: kind for name, (_, kind) in CALLS.items()}


def test_arrays_have_the_shapes_that_are_told(answers) -> None:
    depths, heads, width = N + 1, tiny_models.N_HEADS, tiny_models.D_MLP
    tokens = len(answers["read"].tokens)
    for sweep, rows in zip(answers["sweep"], (N, N - 1), strict=True):
        assert all(getattr(sweep, name).shape == (rows, tokens) for name in protocol.MEASURES)
    assert answers["sweep_corpus"].kl_nats.shape == (N, 4) and answers["sweep_corpus"].tokens_scored == 200
    census, neurons = answers["census"], answers["neurons"]
    assert census.high.shape == (N,) and census.kurtosis.shape == (N, width)
    assert neurons.activation.shape == (len(neurons.rows), tokens) and {row.layer for row in neurons.rows} == {4}
    lens = answers["lens"]
    assert lens.entropy_bits.shape == (2, N) and lens.rank.shape == (2, N, 2)
    assert answers["evidence"].of("entropy_bits").shape == (depths, 4)
    assert answers["evidence"].of("attn_norm").shape == (N, 4)
    assert len(answers["stages"].stages) == 4 and answers["stages"].curves.shape[1] == N
    assert answers["heads"].score.shape == (N, heads, 3)
    assert answers["pattern"].pattern.shape == (tokens, tokens)
    assert answers["attribution"].attn.shape == (N, tokens)  # of N - 1 layers
    assert answers["similarity"].influence.shape == (N, 3) and answers["similarity"].cka.shape == (depths, depths)
    assert answers["probe"].asked == "is one of 3 tokens"
    assert answers["compare"].kl_nats.shape == (N, tokens)


def test_a_sweep_finds_what_a_reading_does(m) -> None:
    (drops,) = m.sweep(PROMPT, kinds="drop")
    assert drops.kind == "drop" and [row.schedule for row in drops.rows] == [f"drop {layer}" for layer in range(N)]
    edit = m.read(PROMPT, "drop 2")
    close(drops.kl_nats[2], edit.effect_kl_nats)
    close(drops.entropy_change_bits[2], edit.effect_entropy_bits)
    assert drops.top1_same[2].tolist() == edit.effect_top1_same.tolist()
    close(drops.tracked_p[2], edit.tracked_p[-1])


def test_schedules_of_ones_own_take_the_place_of_kinds(m) -> None:
    (found,) = m.sweep(PROMPT, schedules=["swap 4 3", ss.parse("drop 2; drop 5")])
    assert found.kind == "schedules" and [row.schedule for row in found.rows] == ["swap 3 4", "drop 2 5"]
    for row, values in zip(found.rows, found.kl_nats, strict=True):
        close(values, m.read(PROMPT, row.schedule).effect_kl_nats)


def test_prompts_and_kinds_make_a_sweep_each(m) -> None:
    found = m.sweep(PROMPT, OTHER, kinds=["attn-off", "heads"], layer=None)
    assert [(sweep.prompt, sweep.kind) for sweep in found] == [
        *((PROMPT, "attn-off"), (PROMPT, "heads"), (OTHER, "attn-off"), (OTHER, "heads"))
    ]
    assert len(m.sweep(PROMPT, kinds="heads", layer=2)[0].rows) == tiny_models.N_HEADS
    (trace,) = m.sweep(PROMPT, kinds="trace", position=3)
    assert trace.positions == (3,) and np.isnan(trace.kl_nats[:, 4]).all()


def test_a_corpus_is_its_documents_pooled(m, tmp_path) -> None:
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in (PROMPT, OTHER)))
    pooled = m.sweep_corpus(file, kinds="drop")
    values = np.concatenate([sweep.kl_nats[:, 1:] for sweep in m.sweep(PROMPT, OTHER, kinds="drop")], axis=1)
    assert (pooled.documents, pooled.tokens_scored) == (2, values.shape[1])
    close(pooled.kl_nats[:, 0], values.mean(1))
    close(pooled.kl_nats[:, 1], np.median(values, axis=1))
    assert (pooled.kl_nats[:, 2] <= pooled.kl_nats[:, 0]).all() and (pooled.kl_nats[:, 0] <= pooled.kl_nats[:, 3]).all()


def test_both_lenses_are_those_of_readings(m) -> None:
    curves = m.lens(PROMPT, "drop 2", position=4, tokens=[5])
    for index, lens in enumerate(("standard", "v1")):
        reading = m.read(PROMPT, "drop 2", lens=lens, tracked=5)
        close(curves.entropy_bits[index], reading.entropy_bits[:, 4])
        close(curves.p[index, :, 0], reading.tracked_p[:, 4])
        assert curves.rank[index, :, 0].tolist() == reading.tracked_rank[:, 4].tolist()


def test_evidence_is_the_mean_of_readings_and_patterns(m) -> None:
    found, reading = m.evidence(PROMPT), m.read(PROMPT)
    close(found.of("attn_norm")[:, 0], reading.attn_norm[1:, 1:].mean(1))
    close(found.of("mlp_norm")[:, 1], np.median(reading.mlp_norm[1:, 1:], axis=1))
    close(found.of("entropy_bits")[:, 0], reading.entropy_bits[:, 1:].mean(1))
    pattern = m.pattern(PROMPT, 1, 3).pattern
    close(pattern.sum(1), 1)
    close(found.head_sink[1, 3], pattern[1:, 0].mean())
    assert np.isnan(m.evidence(PROMPT, lenses=()).of("entropy_bits")).all()


def test_attribution_adds_up_and_tells_what_was_repaired(m) -> None:
    found = m.attribution(PROMPT, "drop 2")
    for run in (found, found.baseline):
        parts = np.nansum(run.attn, 0) + np.nansum(run.mlp, 0)
        np.testing.assert_allclose(run.constant + run.embedding + parts + run.scale, run.logit, atol=1e-4)
    lost = found.baseline.attn[3] + found.baseline.mlp[3]  # of layer 2
    np.testing.assert_allclose(found.self_repair(), found.logit - found.baseline.logit + lost, atol=1e-4)
    assert np.abs(lost).max() > 0.1


def test_an_answer_has_all_replies_and_each_tells_itself(m) -> None:
    answer = m.ask(ss.MapStages(ss.Texts((PROMPT, OTHER))))
    assert [type(reply) for reply in answer.replies] == [ss.CorpusSweep, ss.Evidence, ss.Census, ss.StageMap]
    assert answer.find(ss.Census) is answer.replies[2] and answer.last is answer.replies[3]
    schemas = [reply.to_json()["schema"] for reply in (*answer.replies, answer)]
    assert schemas == ["sweep/1", "evidence/1", "neurons/1", "stages/1", "stages/1"]


def test_each_sweep_of_several_tells_itself(m) -> None:
    drops, swaps = m.sweep(PROMPT)
    assert set(drops.to_pandas()["kind"]) == {"drop"}
    assert set(swaps.to_pandas()["kind"]) == {"swap"}


# ---------------------------------------------------------------------------------------------------------- JSON

ASKED = {  # a method; the command that asks for the same
    "a reading": (lambda m: m.read(PROMPT, "drop 2"), ["read", PROMPT, "--edit", "drop 2", "--top", "8"]),
    "another lens": (
        lambda m: m.read(PROMPT, position=3, top=2, lens="v1"),
        ["read", PROMPT, "--position", "3", "--top", "2", "--lens", "v1"],
    ),
    "two prompts": (lambda m: m.sweep(PROMPT, OTHER, tracked="the"), ["sweep", PROMPT, OTHER, "--track", "the"]),
    "a trace": (
        lambda m: m.sweep(OTHER, kinds="trace", position=5),
        ["sweep", OTHER, "--kind", "trace", "--position", "5"],
    ),
    "a census": (lambda m: m.census(), ["neurons"]),
    "neurons": (lambda m: m.neurons(PROMPT, most=2, layer=4), ["neurons", "--top", "2", "--layer", "4", PROMPT]),
    "lens curves": (
        lambda m: m.lens(PROMPT, "drop 2", position=4, tokens="the"),
        ["lens", PROMPT, "--edit", "drop 2", "--position", "4", "--follow", "the"],
    ),
    "stages": (lambda m: m.stages(PROMPT, OTHER), ["stages", PROMPT, OTHER]),
    "a pattern": (lambda m: m.pattern(PROMPT, 1, 3), ["heads", PROMPT, "--head", "1.3"]),
    "attribution": (
        lambda m: m.attribution(PROMPT, "drop 2", position=3),
        ["attribution", PROMPT, "--edit", "drop 2", "--position", "3"],
    ),
    "similarity": (lambda m: m.similarity(PROMPT, OTHER), ["similarity", PROMPT, OTHER]),
    "a comparison": pytest.param(
        lambda m: m.compare(ss.Read(PROMPT, "drop 2", position=3), ss.Read(PROMPT, "swap 3 4", position=3)),
        ["compare", PROMPT, "--edit", "drop 2", "--with-edit", "swap 3 4", "--position", "3"],
    ),
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("call", "command"), ASKED.values(), ids=ASKED)
def test_json_is_what_the_command_prints(m, stagescope, call, command) -> None:
    ran = stagescope(*command, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(json.dumps(call(m).to_json(), allow_nan=False)) == json.loads(ran.out)


@pytest.mark.usefixtures("home")
def test_json_of_a_text_is_what_the_command_prints(m, stagescope, text) -> None:
    words = ("sweep", "--corpus", str(text), "--kind", "drop", "--tokens", "200", "--window", "32", "--json")
    found = m.sweep_corpus(text, kinds="drop", tokens=200, window=32)
    assert found.to_json() == json.loads(stagescope(*words).out)
    assert found.documents == 7 and found.tokens_scored == 200  # 31 of a window, the prefix left out


@pytest.mark.usefixtures("home")
def test_json_of_evidence_is_that_of_the_three_commands(m, stagescope) -> None:
    found = m.evidence(PROMPT, OTHER).to_json()
    for part in ("attention", "norms", "lens"):
        assert found[part] == json.loads(stagescope(part, PROMPT, OTHER, "--json").out)


@pytest.mark.usefixtures("home")
def test_json_of_heads_and_probes_is_what_the_commands_print(answers, stagescope, joiner_dir, words) -> None:
    of = ("--model", str(joiner_dir), "--corpus", str(words), "--json")
    assert answers["heads"].to_json() == json.loads(stagescope("heads", *of).out)
    tokens = [word for token in JOINED for word in ("--token", token)]
    probe = json.loads(stagescope("probe", *of, *tokens, "--contexts", "80").out)
    assert json.loads(json.dumps(answers["probe"].to_json())) == probe


# --------------------------------------------------------------------------------------------------------- pandas


def typed(frame: pd.DataFrame) -> dict[str, str]:
    """Each column's dtype; texts as "text", whatever pandas calls them."""
    return {
        name: "text" if pd.api.types.is_string_dtype(column) else str(column.dtype) for name, column in frame.items()
    }


def texts_of(frame: pd.DataFrame) -> list[str]:
    return [value for _, column in frame.items() for value in column if isinstance(value, str)]


def by(frame: pd.DataFrame, rows: str, columns: str, name: str) -> np.ndarray:
    """[rows, columns] of one column of a frame, as floats; what is missing is NaN."""
    return frame.pivot(index=rows, columns=columns, values=name).to_numpy(dtype=float, na_value=np.nan)


def test_a_reading_as_a_frame_has_its_arrays(m) -> None:
    found = m.read(PROMPT, "swap 2 3")
    frame = found.to_pandas()
    columns = {
        **{"position": "int64", "token_id": "int64", "token": "text", "depth": "int64", "layer": "Int64"},
        **{"layers": "text", "entropy_bits": "float64", "kl_final_nats": "float64", "top1_id": "int64"},
        **{"top1": "text", "top1_p": "float64", "tracked_id": "int64", "tracked": "text", "tracked_rank": "int64"},
        **{"tracked_p": "float64", "attn_norm": "float64", "mlp_norm": "float64", "resid_norm": "float64"},
        **{"baseline_depth": "Int64", "kl_nats": "float64", "resid_rel": "float64", "resid_cos": "float64"},
        **{"top1_same": "boolean", "effect_kl_nats": "float64", "effect_entropy_change_bits": "float64"},
        **{"effect_top1_same": "boolean"},
    }
    assert typed(frame) == columns and list(frame) == list(columns)
    assert len(frame) == 17 * 7
    names = ("entropy_bits", "kl_final_nats", "tracked_rank", "tracked_p", "attn_norm", "mlp_norm", "resid_norm")
    for name in (*names, "kl_nats", "resid_rel", "resid_cos", "top1_same"):
        np.testing.assert_array_equal(by(frame, "depth", "position", name), getattr(found, name), err_msg=name)
    np.testing.assert_array_equal(by(frame, "depth", "position", "top1_id"), found.top_ids[..., 0])
    assert frame["token"].tolist() == [token.text for token in found.tokens for _ in range(7)]
    assert frame["top1"].tolist() == [found.texts[token] for token in found.top_ids[..., 0].T.ravel()]


def test_what_a_reading_does_not_know_is_missing(m) -> None:
    frame = m.read(PROMPT, "swap 2 3").to_pandas()
    assert frame["layer"].isna().equals(frame["depth"] == 0) and (frame["layers"][frame["depth"] == 0] == "").all()
    assert frame["attn_norm"].isna().equals(frame["depth"] == 0)
    unlike = frame["depth"] == 3  # after layers 0, 1, 3, which the baseline never runs by themselves
    for name in ("baseline_depth", "kl_nats", "resid_rel", "resid_cos", "top1_same"):
        assert frame[name].isna().equals(unlike), name
    effects = [name for name in frame if name.startswith("effect_")]
    assert all(frame[name].notna().equals(frame["depth"] == 6) for name in effects) and len(effects) == 3


def test_a_sweep_as_a_frame_has_the_means_of_its_arrays(m) -> None:
    found = m.sweep(PROMPT, OTHER)
    frame = found.to_pandas()
    assert len(frame) == 2 * (N + N - 1)
    assert frame["prompt"].tolist() == [sweep.prompt for sweep in found for _ in sweep.rows]
    assert frame["schedule"].tolist() == [row.schedule for sweep in found for row in sweep.rows]
    kinds = typed(frame)
    assert {kinds[name] for name in ("prompt", "schedule", "kind", "variant", "note")} == {"text"}
    assert {kinds[name] for name in ("layer", "scored")} == {"int64"}
    assert frame["scored"].tolist() == [len(sweep.tokens) - 1 for sweep in found for _ in sweep.rows]
    for measure in protocol.MEASURES[:4]:
        end = -1 if measure == "loss_change_nats" else None  # nothing follows the last token
        values = [getattr(sweep, measure)[row, 1:end] for sweep in found for row in range(len(sweep.rows))]
        close(frame[f"{measure}_mean"], [of.mean(dtype=np.float64) for of in values])
        close(frame[f"{measure}_median"], [np.median(of) for of in values])
        assert frame[f"{measure}_low"].isna().all() and frame[f"{measure}_high"].isna().all()  # of one prompt
        assert kinds[f"{measure}_mean"] == kinds[f"{measure}_low"] == "float64"


def test_lens_curves_as_a_frame(m) -> None:
    found = m.lens(PROMPT, tokens=[5, 9])
    frame = found.to_pandas()
    assert list(frame) == [
        *("lens", "depth", "layer", "layers", "entropy_bits", "kl_final_nats", "top1_id", "top1"),
        *("followed_id", "followed", "rank", "p", "logit"),
    ]
    assert typed(frame)["followed"] == "text" and typed(frame)["rank"] == "int64" and len(frame) == 2 * (N + 1) * 2
    for index, lens in enumerate(("standard", "v1")):
        part = frame[frame["lens"] == lens]
        for name in ("p", "rank", "logit"):
            np.testing.assert_array_equal(by(part, "depth", "followed_id", name), getattr(found, name)[index])
    bare = m.lens(PROMPT).to_pandas()
    assert len(bare) == 2 * (N + 1) and bare[["followed_id", "rank", "p", "logit"]].isna().all(axis=None)


def test_attribution_as_a_frame_adds_up(m) -> None:
    frame = m.attribution(PROMPT, "drop 2").to_pandas()
    assert list(frame) == [
        *("schedule", "position", "token_id", "token", "tracked_id", "tracked", "part", "depth", "layer", "layers"),
        "logits",
    ]
    for schedule in ("drop 2", ""):
        run = frame[frame["schedule"] == schedule]
        total = run[run["part"] != "logit"].groupby("position")["logits"].sum()
        logit = run[run["part"] == "logit"].set_index("position")["logits"]
        np.testing.assert_allclose(total, logit, atol=1e-4)
    assert (frame["depth"].notna() == frame["part"].isin(["attn", "mlp"])).all()
    assert set(frame[frame["schedule"] == "drop 2"]["layer"].dropna()) == {0, 1, 3, 4, 5}


def test_patterns_census_and_similarity_as_frames(m) -> None:
    pattern = m.pattern(PROMPT, 1, 3)
    weights = np.nan_to_num(by(pattern.to_pandas(), "query", "key", "weight"))
    np.testing.assert_array_equal(weights, np.tril(pattern.pattern))
    census = m.census()
    frame = census.to_pandas()
    counts = ("high_kurtosis", "prediction", "suppression", "unsigned", "partition_candidates")
    assert list(frame) == ["layer", *counts, "of"]
    assert set(typed(frame).values()) == {"int64"} and (frame["of"] == tiny_models.D_MLP).all()
    assert frame["high_kurtosis"].tolist() == (census.kurtosis > 10).sum(1).tolist()
    assert frame["prediction"].tolist() == census.prediction.tolist()
    similarity = m.similarity(PROMPT, OTHER)
    frame = similarity.to_pandas()
    for name in ("angular", "cka"):
        values = by(frame[frame["measure"] == name], "depth", "other_depth", "value")
        np.testing.assert_array_equal(values, getattr(similarity, name))
    assert frame[frame["measure"] == "influence"]["value"].tolist() == similarity.influence[:, 0].tolist()


def test_evidence_as_a_frame_has_layers_depths_and_heads(m) -> None:
    found = m.evidence(PROMPT, OTHER)
    frame = found.to_pandas()
    assert list(frame) == ["measure", "depth", "layer", "head", "mean", "median", "low", "high", "uniform"]
    for name, place in (("entropy_bits", "depth"), ("attn_norm", "layer"), ("sink_mass", "layer")):
        rows = frame[(frame["measure"] == name) & frame["head"].isna()].sort_values(place)
        np.testing.assert_array_equal(rows[["mean", "median", "low", "high"]], found.of(name))
    heads = frame[(frame["measure"] == "sink_mass") & frame["head"].notna()]
    np.testing.assert_array_equal(by(heads, "layer", "head", "mean"), found.head_sink)


def test_a_comparison_as_a_frame_tells_which_depths_pair(m) -> None:
    found = m.compare(ss.Read(PROMPT, "drop 2"), ss.Read(PROMPT, "swap 3 4"))
    frame = found.to_pandas()
    paired = frame[frame["paired"]]
    assert paired[["depth_a", "depth_b"]].drop_duplicates().to_numpy().tolist() == [list(pair) for pair in found.pairs]
    np.testing.assert_array_equal(by(paired, "depth_a", "position", "kl_nats"), found.kl_nats)
    assert frame["kl_nats"].notna().equals(frame["paired"])


def test_every_answer_is_a_frame_whose_texts_are_harmless(answers) -> None:
    for found in answers.values():
        frame = found.to_pandas()
        assert len(frame) and frame.columns.is_unique
        assert not any(acts(value) for value in texts_of(frame))


def test_without_pandas_it_says_what_to_install(m, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        m.read(PROMPT).to_pandas()


# -------------------------------------------------------------------------------------------- how answers look


def acts(shown: str) -> bool:
    """Whether some character acts on a terminal, or hides."""
    return any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in shown if character != "\n")


def assert_harmless(told: Told) -> None:
    """As a string, a line, a page and in rich's own console, which reads markup where it is let."""
    assert not acts(str(told)) and not acts(repr(told)) and "\n" not in repr(told)
    page = told._repr_html_()
    assert not acts(page)
    root = ET.fromstring(page)
    assert {element.tag for element in root.iter()} <= {"pre", "span"}
    assert {name for element in root.iter() for name in element.attrib} <= {"style"}
    for width in (40, 120):
        drawn = Console(file=io.StringIO(), force_terminal=True, width=width)
        drawn.print(told)
        assert not acts(re.sub(r"\x1b\[[0-9;]*m", "", drawn.file.getvalue()))


def test_a_line_names_kind_prompt_edit_model_and_size(m) -> None:
    name = m.info.name
    assert repr(m) == f"<Model {name}, 6 layers, float32 on cpu>"
    assert repr(m.read(PROMPT, "drop 2")) == f"<Reading “{PROMPT}”, drop 2 · {name} · 6 depths x 17 tokens>"
    assert repr(m.pattern(PROMPT, 1, 3)) == f"<HeadPattern head 1.3 on “{PROMPT}” · {name} · 17 x 17 tokens>"
    assert repr(m.sweep(PROMPT, OTHER)).startswith(f"<Sweeps sweep of drops, swaps over 2 prompts · {name} · ")
    assert repr(m.generate(PROMPT, "drop 2", tokens=3)).endswith(f"drop 2 · {name} · 2 texts x 3 tokens>")


def test_a_line_of_every_kind_says_how_much_there_is(answers) -> None:
    for told in answers.values():
        if not isinstance(told, Answer):  # a token has no size
            assert re.search(r" · joiner\d+ · .*\d", repr(told)), repr(told)


@pytest.mark.usefixtures("home")
def test_printed_it_is_what_the_command_prints(m, stagescope) -> None:
    def printed(*words: str) -> list[str]:
        return [line.rstrip() for line in stagescope(*words).out.splitlines()]

    assert str(m.sweep(PROMPT)).splitlines() == printed("sweep", PROMPT)
    assert str(m.attribution(PROMPT, position=3)).splitlines() == printed("attribution", PROMPT, "--position", "3")
    assert str(m.census()).splitlines() == printed("neurons")


def test_the_page_says_what_the_string_says(m) -> None:
    for told in (m.read(PROMPT, "drop 2"), m.sweep(PROMPT, OTHER), m.ask(ss.FindToken("the"))):
        page = "".join(ET.fromstring(told._repr_html_()).itertext())
        assert [line.rstrip() for line in page.splitlines()] == str(told).splitlines()


def test_rich_prints_the_same_numbers_as_wide_as_it_is_told(m) -> None:
    told = m.sweep(PROMPT)
    drawn = Console(file=io.StringIO(), width=100)
    drawn.print(told)
    assert [line.rstrip() for line in drawn.file.getvalue().splitlines()] == str(told).splitlines()


def test_a_prompt_cannot_act_on_a_terminal_or_a_page(m) -> None:
    for told in (
        *(m.read(HOSTILE, "drop 2"), m.sweep(HOSTILE), m.sweep(HOSTILE, PROMPT), m.lens(HOSTILE, tokens="x")),
        *(m.pattern(HOSTILE, 0, 0), m.attribution(HOSTILE), m.neurons(HOSTILE, most=1), m.evidence(HOSTILE)),
        *(m.compare(ss.Read(HOSTILE), ss.Read(HOSTILE, "drop 2")), m.ask(ss.FindToken("\x1b"))),
    ):
        assert_harmless(told)
    assert "\\u{1b}]52" in repr(m.read(HOSTILE)) and m.read(HOSTILE).to_json()["prompt"] == HOSTILE


def test_tokens_cannot_either(monkeypatch) -> None:
    """Of the seeded engine, whose every token can be made to mean harm."""
    words = ["\x1b]52;c;AA\x07", "<script>x()</script>", "[/b]", "[bold red]", "&lt;", '"><b>', "\u202eabc", "\r\n"]
    monkeypatch.setattr(fake, "WORDS", words)

    async def asked(*requests) -> list[Answer]:
        engine, load, found = fake.FakeEngine(6), ss.Load("tiny"), []
        for request in (load, *requests):
            replies = [reply async for reply in engine.ask(request) if not isinstance(reply, ss.Progress)]
            found.append(Answer(load, engine.info, request, collected(replies)))
        return found[1:]

    texts, edit = ss.Texts((HOSTILE,)), ss.Read(HOSTILE, "drop 3")
    requests = (
        *(edit, ss.TakeSweep((HOSTILE,)), ss.TakeSweep((HOSTILE,), ("trace",)), ss.TakeEvidence(texts)),
        *(ss.TakeLens(HOSTILE), ss.ShowNeurons(prompt=HOSTILE), ss.TakeCensus(), ss.MapStages(texts), ss.FindHeads()),
        *(ss.ShowPattern(HOSTILE, 2, 1), ss.TakeAttribution(HOSTILE, "drop 3"), ss.TakeSimilarity(texts)),
        *(ss.TakeProbe(), ss.TakeComparison(ss.Read(HOSTILE), edit), ss.Generate(HOSTILE, ("drop 3",))),
    )
    for answer in asyncio.run(asked(*requests)):
        assert_harmless(answer)
        assert not any(acts(value) for value in texts_of(answer.to_pandas()))


def test_an_answer_that_came_another_way_tells_itself_where_it_knows_its_model(m) -> None:
    found = m.read(PROMPT, "drop 2")
    alone = dataclasses.replace(found)
    assert alone.to_json() == found.to_json() and str(alone) == str(found)
    assert m.info.name in repr(found.baseline) and found.baseline.to_json()["schedule"] == ""
    census = dataclasses.replace(m.census())
    assert repr(census).startswith("<stagescope.engine.protocol.Census object")
    with pytest.raises(ValueError, match="ask a Model for it"):
        census.to_json()


def test_answers_are_frozen(answers) -> None:
    for name, found in answers.items():
        if name == "sweep":  # a tuple of them
            (found, _) = found
        for field in dataclasses.fields(found)[:2]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(found, field.name, None)


def test_what_is_written_into_an_answer_changes_no_later_one(llama_dir) -> None:
    own = ss.load(llama_dir, device="cpu", cache=False)
    first = own.read(PROMPT, "drop 2")
    before = first.baseline.entropy_bits.copy()
    try:
        first.baseline.entropy_bits[:] = 0
    except ValueError:  # read-only: as good
        pass
    np.testing.assert_array_equal(own.read(PROMPT, "drop 3").baseline.entropy_bits, before)


# ------------------------------------------------------------------------------------------------------- refused

REFUSED = {
    "no token kept": (lambda m: m.read(PROMPT, top=0), "usage", "0 top tokens", "Keep 1 or more"),
    "no neuron": (lambda m: m.neurons(most=-1), "usage", "-1 neurons", "Give 1 or more"),
    "a word for a request": (lambda m: m.ask("read"), "usage", "a str is no request", "ss.Read"),
    "a list for a prompt": (lambda m: m.sweep([PROMPT]), "usage", "this is a list", "one after the other"),
    "standard input": (lambda m: m.stages(file="-"), "usage", "for the command line alone", "Name a text file"),
    "an empty token": (lambda m: m.read(PROMPT, tracked=""), "usage", "is no token", "or its id"),
    "no thread": (lambda m: ss.load("none", threads=0), "usage", "threads cannot be 0", "Give 1 or more"),  # what is asked; its kind; what the message says; what it says to do
    "a layer beyond": (lambda m: m.read(PROMPT, "drop 99"), "usage", "layers 0-5", "drop 99\n     ^^"),
    "no verb": (lambda m: m.read(PROMPT, "drp 2"), "usage", "did you mean drop", "drp 2\n^^^"),
    "a position beyond": (lambda m: m.read(PROMPT, position=17), "usage", "no position 17", "Use 0 to 16"),
    "before the first": (lambda m: m.read(PROMPT, position=-18), "usage", "no position -18", "Use 0 to 16"),
    "of attribution": (lambda m: m.attribution(PROMPT, position=17), "usage", "no position 17", "Use 0 to 16"),
    "of a lens": (lambda m: m.lens(PROMPT, position=17), "usage", "no position 17", "Use 0 to 16"),
    "no prompt": (lambda m: m.read(""), "usage", "the prompt is empty", "Give some text"),
    "no such lens": (lambda m: m.read(PROMPT, lens="v2"), "usage", "'v2'", "Use standard or v1"),
    "two tokens": (lambda m: m.read(PROMPT, tracked="Colosseum"), "usage", "is 8 tokens", "its first piece"),
    "no such token": (lambda m: m.sweep(PROMPT, tracked=D_VOCAB), "usage", "no token 320", "Ids end at 319"),
    "no such kind": (lambda m: m.sweep(PROMPT, kinds="dorp"), "usage", "“dorp”", "The kinds are drop, swap"),
    "a prompt twice": (lambda m: m.sweep(PROMPT, PROMPT), "usage", "the same", "Give each once"),
    "one bad schedule": (
        lambda m: m.sweep(PROMPT, schedules=["drop 1", "drop 9"]),
        *("usage", "line 2", "One schedule a line"),
    ),
    "no such file": (lambda m: m.sweep_corpus("/no/such"), "missing", "cannot read /no/such", "Name a text file"),
    "nor for evidence": (lambda m: m.evidence(file="/no/such"), "missing", "cannot read /no/such", "Name a text file"),
    "nor for heads": (lambda m: m.heads(Path("/no/such")), "missing", "cannot read /no/such", "Name a text file"),
    "prompts and a file": (lambda m: m.stages(PROMPT, file=__file__), "usage", "prompts and a file", "Give one or the"),
    "no such words": (lambda m: m.heads(pieces=5), "usage", "words of 5 tokens", "Give 2 to 4"),
    "too few contexts": (lambda m: m.probe(most=50), "usage", "50 contexts are too few", "Give 80 or more"),
    "no such layer": (lambda m: m.pattern(PROMPT, 6, 0), "usage", "no layer 6", "Use 0 to 5"),
    "no such head": (lambda m: m.pattern(PROMPT, 0, 4), "usage", "no head 4", "Use 0 to 3"),
    "two lengths": (
        lambda m: m.compare(ss.Read(PROMPT), ss.Read(OTHER)),
        *("usage", "one has 17 tokens", "Give two of as many"),
    ),
    "to load": (lambda m: m.ask(ss.Load()), "usage", "this is a loaded model", "Load another with stagescope.load"),
}


@pytest.mark.parametrize(("call", "kind", "says", "advises"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_with_what_to_do(m, call, kind, says, advises) -> None:
    with pytest.raises(ss.EngineError) as caught:
        call(m)
    failure = caught.value.failure
    assert failure.kind == kind and says in failure.message and advises in failure.hint
    assert str(caught.value).split() == f"{failure.message} {failure.hint}".split()
    assert "^" not in failure.hint or str(caught.value).endswith(f"\n{failure.hint}")  # carets stand below their place
    assert m.read(PROMPT).n_depths == N + 1  # the model can be asked as before


@pytest.mark.parametrize(
    ("how", "kind", "says", "advises"),
    [
        ({"model": "/no/such/model"}, "missing", "/no/such/model", "Check the path"),
        ({"model": "gtp2", "offline": True}, "missing", "'gtp2'", "Did you mean gpt2?"),
        ({"device": "gpu"}, "usage", "no device is called 'gpu'", "Use cpu"),
        ({"dtype": "int3"}, "usage", "no dtype is called 'int3'", "float32"),
        ({"bos": PROMPT}, "usage", "16 tokens", "Give one token"),
    ],
    ids=["directory", "name", "device", "dtype", "prefix"],
)
def test_what_cannot_be_loaded_is_refused_with_what_to_do(llama_dir, how, kind, says, advises) -> None:
    with pytest.raises(ss.EngineError) as caught:
        ss.load(**{"model": llama_dir, "device": "cpu", "cache": False, **how})
    failure = caught.value.failure
    assert failure.kind == kind and says in failure.message and advises in failure.hint


def test_a_closed_model_says_so(llama_dir, m) -> None:
    with ss.load(llama_dir, device="cpu", cache=False) as closed:
        kept = closed.read(PROMPT, "drop 2")
    closed.close()  # a second time does no harm
    name = m.info.name
    assert repr(closed) == f"<Model {name}, closed>"
    for call in (
        *(lambda: closed.read(PROMPT), lambda: closed.info, lambda: closed.read(PROMPT, tracked="a")),
        lambda: m.compare(ss.Read(PROMPT), ss.Read(PROMPT), other=closed),
    ):
        with pytest.raises(ss.EngineError, match=f"{name} was closed. Load it again with stagescope.load."):
            call()
    assert str(kept) == str(m.read(PROMPT, "drop 2"))  # what it answered stays


# ------------------------------------------------------------------------------------------------------ compared


def test_two_schedules_are_compared_as_their_readings_say(m) -> None:
    a, b = (ss.Read(PROMPT, schedule, top=D_VOCAB) for schedule in ("drop 2", "swap 3 4"))
    found = m.compare(a, b)
    here, there = m.read(PROMPT, "drop 2", top=D_VOCAB), m.read(PROMPT, "swap 3 4", top=D_VOCAB)
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (4, 5), (5, 6))
    of_a, of_b = map(list, zip(*found.pairs, strict=True))
    p, q = distributions(here)[of_a], distributions(there)[of_b]
    close(found.kl_nats, kl(p, q))
    close(found.effect_kl_nats, kl(p[-1], q[-1]))
    close(found.effect_entropy_bits, there.entropy_bits[-1] - here.entropy_bits[-1])
    assert (found.top1_same == (p.argmax(-1) == q.argmax(-1))).all()
    np.testing.assert_array_equal(found.a.top_ids, here.top_ids)
    assert found.b.tracked.tolist() == found.a.tracked.tolist() and found.effect_kl_nats[1:].min() > 0.05


def test_two_models_are_compared_as_their_readings_say(m, other) -> None:
    a, b = ss.Read(PROMPT, top=D_VOCAB), ss.Read(PROMPT, "drop 2", top=D_VOCAB)
    found = m.compare(a, b, other=other)
    p = distributions(m.read(PROMPT, top=D_VOCAB))
    q = distributions(other.read(PROMPT, "drop 2", top=D_VOCAB))
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (4, 3), (5, 4), (6, 5))
    here, there = map(list, zip(*found.pairs, strict=True))
    close(found.kl_nats, kl(p[here], q[there]))
    close(found.effect_entropy_bits, bits(q[-1]) - bits(p[-1]))
    assert np.isnan(found.resid_cos).all()  # two residual streams that have nothing to do with each other
    assert (found.a.model.fingerprint, found.b.model.fingerprint) == (m.info.fingerprint, other.info.fingerprint)
    assert found.to_json()["output"]["kl_nats"] == found.effect_kl_nats.tolist()
    assert not m.compare(a, a, other=m).kl_nats.any()


def test_a_comparison_knows_what_loaded_each_side(m, llama_dir, other) -> None:
    a, b = ss.Read(PROMPT, position=3), ss.Read(PROMPT, "drop 2", position=3)
    with ss.load(str(llama_dir), device="cpu", dtype="bfloat16", cache=False) as half:
        in_two_dtypes, same = showing.answer_of(m.compare(a, b, other=half)), showing.answer_of(m.compare(a, b, other=m))
    assert in_two_dtypes.last.a.model.fingerprint == in_two_dtypes.last.b.model.fingerprint  # of the directory
    assert again.python(in_two_dtypes) == again.command(in_two_dtypes) == ""
    assert again.python(same) and "--with-model" not in again.command(same)
    words = shlex.split(again.command(showing.answer_of(m.compare(a, b, other=other))))
    assert os.path.samefile(words[words.index("--with-model") + 1], other._load.model)  # a name would not be found
    assert words[words.index("--position") + 1] == "3"


def test_models_of_two_vocabularies_are_not_compared(m, joiner) -> None:
    with pytest.raises(ss.EngineError, match="do not share a vocabulary.*Two models of one tokenizer"):
        m.compare(ss.Read(PROMPT), ss.Read(PROMPT), other=joiner)


# -------------------------------------------------------------------------------------------------- asked again

REQUESTS = [
    *(ss.Load(), ss.Load("gpt2", "cuda:1", memory=2**30, offline=True)),
    *(ss.Read(HOSTILE, "drop 3; swap 7 8", tracked=5), ss.TakeCensus(), ss.FindToken(" the")),
    *(ss.TakeSweep((PROMPT, OTHER), ("heads",), layer=2), ss.TakeSweep((HOSTILE,), schedules=("drop 1",))),
    *(ss.SweepCorpus("a 'b'.txt", tokens=9, window=64), ss.TakeEvidence(ss.Texts((PROMPT,)), ("v1",))),
    *(ss.TakeLens(PROMPT, position=3, tokens=(1, 2)), ss.ShowNeurons(3), ss.MapStages(ss.Texts(file="x"))),
    *(ss.FindHeads(pieces=2), ss.ShowPattern(PROMPT, 1, 2), ss.TakeAttribution(PROMPT), ss.TakeSimilarity()),
    *(ss.TakeProbe(suffix="ed"), ss.TakeComparison(ss.Read(PROMPT), ss.Read(PROMPT, "drop 2"))),
    *(ss.Generate(HOSTILE, ("drop 2", "swap 3 4"), 9, 0.5, 3, 0.9, 1), ss.Generate(PROMPT)),
]


def test_the_repr_of_a_request_makes_it_again() -> None:
    assert {type(request) for request in REQUESTS} == set(typing.get_args(protocol.Request))
    names = {name: getattr(ss, name) for name in ss.__all__}
    for request in REQUESTS:
        again = eval(repr(request), dict(names))  # noqa: S307
        assert again == request and hash(again) == hash(request)


def test_a_method_and_its_request_give_the_same(m) -> None:
    answer = m.ask(ss.Read(PROMPT, "drop 2", position=3))
    assert_same(answer.last, m.read(PROMPT, "drop 2", position=3))
    assert answer.to_json() == answer.last.to_json() and answer.to_json()["position"] == 3
    assert repr(answer).startswith(f"<Answer “{PROMPT}”, drop 2 · {m.info.name} · ")
    assert (answer.request, answer.info) == (ss.Read(PROMPT, "drop 2", position=3), m.info)


# ------------------------------------------------------------------------------------------- progress, interrupted


def test_progress_is_told_to_who_wants_it(m, llama_dir, monkeypatch, capsys) -> None:
    told: list[ss.Progress] = []
    with ss.load(llama_dir, device="cpu", cache=False, progress=told.append):
        pass
    assert told[-1].stage and {type(one) for one in told} == {ss.Progress}
    monkeypatch.setattr(m, "progress", told.append)
    told.clear()
    m.stages(PROMPT, OTHER)
    stages = [list(of) for _, of in itertools.groupby(told, lambda one: one.stage)]
    assert len(stages) == len({one.stage for one in told}) > 1  # one after the other
    for done in ([one.done for one in stage] for stage in stages):
        assert done == sorted(done) and 0 <= done[0] <= done[-1] <= 1
    m.progress = None
    m.stages(PROMPT, OTHER)
    assert capsys.readouterr() == ("", "")  # this is no terminal


@pytest.fixture
def ours():
    """Python's own answer to ctrl-C, which a suite in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


INTERRUPTED = {
    "sweep": lambda m, file: m.sweep(PROMPT, OTHER, kinds=["drop", "heads"]),
    "sweep_corpus": lambda m, file: m.sweep_corpus(file, kinds="drop"),
    "evidence": lambda m, file: m.evidence(PROMPT, OTHER),
    "stages": lambda m, file: m.stages(PROMPT, OTHER),
    "similarity": lambda m, file: m.similarity(PROMPT, OTHER),
}


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("call", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_ends_a_request_and_the_model_answers_on(m, text, monkeypatch, call) -> None:
    before, told = m.read(PROMPT, "drop 2"), []

    def interrupt(progress: ss.Progress) -> None:
        told.append(progress)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(m, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        call(m, text)
    assert len(told) == 1  # it ended there and then
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(m.read(PROMPT, "drop 2"), before)
    assert isinstance(call(m, text), Told)


@pytest.mark.usefixtures("ours")
def test_ctrl_c_ends_a_comparison_of_two_models(m, other, monkeypatch) -> None:
    told = []

    def interrupt(progress: ss.Progress) -> None:
        told.append(progress)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(m, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        m.compare(ss.Read(PROMPT), ss.Read(PROMPT, "drop 3; drop 4"), other=other)
    assert len(told) == 1


@pytest.mark.usefixtures("ours")
def test_a_second_ctrl_c_does_not_wait_for_a_block(m, monkeypatch) -> None:
    reached = []

    def interrupt(progress: ss.Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("once")
        signal.raise_signal(signal.SIGINT)
        reached.append("twice")

    monkeypatch.setattr(m, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        m.sweep(PROMPT)
    assert reached == ["once"]
    monkeypatch.undo()
    assert m.sweep(PROMPT)[0].complete


@pytest.mark.usefixtures("ours")
def test_who_minds_ctrl_c_himself_is_left_to_it(m, monkeypatch) -> None:
    caught = []
    mine = lambda number, frame: caught.append(number)  # noqa: E731
    signal.signal(signal.SIGINT, mine)
    monkeypatch.setattr(m, "progress", lambda progress: signal.raise_signal(signal.SIGINT))
    try:
        assert m.sweep(PROMPT)[0].complete
    except KeyboardInterrupt:
        pytest.fail("it was taken from whose it is")  # which would end the whole suite
    assert set(caught) == {signal.SIGINT}
    assert signal.getsignal(signal.SIGINT) is mine


@pytest.mark.usefixtures("ours")
def test_another_thread_may_ask(m) -> None:
    found = []
    asking = threading.Thread(target=lambda: found.append(m.read(PROMPT, "drop 2")))
    asking.start()
    asking.join()
    assert_same(found[0], m.read(PROMPT, "drop 2"))


def test_an_error_in_progress_is_the_callers_and_does_no_harm(m, monkeypatch) -> None:
    def broken(progress: ss.Progress) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(m, "progress", broken)
    with pytest.raises(ZeroDivisionError):
        m.evidence(PROMPT, OTHER)
    monkeypatch.undo()
    assert m.evidence(PROMPT, OTHER).complete


# ---------------------------------------------------------------------------------------------------------- kept


@pytest.mark.usefixtures("home")
def test_answers_are_kept_where_that_is_asked(llama_dir, m) -> None:
    keeping = ss.load(llama_dir, device="cpu")
    first = keeping.read(PROMPT, "drop 2")
    (drops,) = keeping.sweep(PROMPT, kinds="drop")
    assert not first.cached and not drops.cached
    again = ss.load(llama_dir, device="cpu")
    assert again.read(PROMPT, "drop 2").cached and again.sweep(PROMPT, kinds="drop")[0].cached
    assert_same(again.read(PROMPT, "drop 2"), first)
    assert not m.read(PROMPT, "drop 2").cached  # loaded with cache=False


def test_one_schedule_is_given_as_it_is(m) -> None:
    (sweep,) = m.sweep(PROMPT, schedules="drop 1")
    assert [row.schedule for row in sweep.rows] == ["drop 1"]


def test_the_repr_of_several_sweeps_counts_all_rows(m) -> None:
    assert "2 prompts" in (told := repr(m.sweep(PROMPT, OTHER))) and told.endswith("· 22 rows>")


def test_a_column_has_one_type_whatever_there_is_in_it(m) -> None:
    """Tables of several answers are put one below the other."""
    without, followed = m.lens(PROMPT).to_pandas(), m.lens(PROMPT, tokens=[5]).to_pandas()
    for name in ("followed", "top1", "lens"):
        assert without[name].dtype == followed[name].dtype
    assert {str(without[name].dtype).lower() for name in ("followed_id", "rank")} == {"int64"}
