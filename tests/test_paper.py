"""The page stands alone, escapes what is hostile, and its pictures and its JSON say the same numbers."""

import json
import os
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evidences import NAMES, make_evidence
from readings import make_census, make_info
from sweeps import make_corpus

from stagescope.engine import fake_causes
from stagescope.engine.fake_findings import stage_map
from stagescope.engine.protocol import Failure, FindHeads, ModelInfo, TakeProbe, Texts
from stagescope.engine.tokens import Token
from stagescope.paper import page as paper
from stagescope.paper.page import PaperData
from stagescope.paper.published import reference

HOSTILE = '"><script src="http://evil.example/x.js">alert(1)</script><img src=x>&\x1b]52;\u202e\ud800'
GPT2 = {"architecture": "GPT2LMHeadModel", "n_layers": 12, "d_model": 768}
HTML = "{http://www.w3.org/1999/xhtml}"


def make_data(n_layers: int = 12, documents: int = 16, **info) -> PaperData:
    model = make_info(n_layers, **info)
    sweep = replace(make_corpus(n_layers=n_layers, documents=documents), model=model)
    evidence = replace(make_evidence(n_layers, documents=documents), model=model)
    causes = fake_causes.head_scores(model, FindHeads()), fake_causes.probe(model, TakeProbe())
    return PaperData(model, sweep, evidence, make_census(n_layers), stage_map(model, Texts()), *causes)


class Seen(HTMLParser):
    """Tags, attributes and text as a browser's parser sees them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_is_well_formed(tmp_path):
    written, beside = paper.write(tmp_path / "report.html", make_data())
    page = written.read_text("utf-8")
    ET.fromstring(page)
    seen = Seen(page)
    assert not {"script", "link", "img", "image", "iframe", "object", "embed", "use", "a"} & set(seen.tags)
    named = {(name, value) for _, name, value in seen.attributes if name in ("src", "href", "xlink:href", "data", "action")}
    assert not named
    assert not [value for _, name, value in seen.attributes if name != "xmlns" and "://" in (value or "")]
    for word in ("url(http", "@import", "@font-face", "javascript:"):
        assert word not in page.lower()
    assert "prefers-color-scheme: dark" in page
    heads = [head.text for head in ET.fromstring(page).iter(f"{HTML}h2")]
    assert [head.split(".")[0] for head in heads[:8]] == [f"Figure {n}" for n in range(3, 11)]
    assert "topics.txt" in page and "not visible in this model" in page and beside.name in page


def test_hostile_names_are_only_text(tmp_path):
    data = make_data(name=HOSTILE, source=HOSTILE, prefix=Token(0, HOSTILE))
    data = replace(
        data,
        sweep=replace(data.sweep, source=HOSTILE),
        evidence=replace(data.evidence, source=HOSTILE),
        census=replace(data.census, text=HOSTILE),
        heads=replace(data.heads, source=HOSTILE),
        probe=replace(data.probe, source=HOSTILE, asked=HOSTILE),
        stages=replace(
            data.stages, rule=HOSTILE, source=HOSTILE,
            stages=tuple(
                replace(s, name=HOSTILE, why=HOSTILE, evidence=tuple(replace(e, title=HOSTILE) for e in s.evidence))
                for s in data.stages.stages
            ),
        ),
    )  # fmt: skip
    page = paper.page(data, HOSTILE)
    ET.fromstring(page.encode("utf-8"))
    seen = Seen(page)
    assert not {"script", "img"} & set(seen.tags) and "alert(1)" in "".join(seen.text)
    assert not {"\x1b", "\u202e"} & set(page)
    paper.write(tmp_path / "x.html", data)  # a lone surrogate, as in a file name, is no error


def test_the_json_has_every_figure_and_null_for_nan(tmp_path):
    data = make_data()
    data = replace(data, evidence=make_evidence(12, documents=1, lenses=("standard",), n_tokens=8))
    _, beside = paper.write(tmp_path / "report.html", data)
    told = json.loads(beside.read_text("utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert told["schema"] == "paper/1" and list(told["figures"]) == [str(number) for number in range(3, 11)]
    drop, swap = told["figures"]["3"]["panels"][0]["curves"]
    assert (drop["name"], len(drop["mean"]), swap["x"][0]) == ("drop", 12, 0.5)
    assert drop["mean"] == pytest.approx(data.sweep.kl_nats[:12, 0].tolist())
    corrected, v1 = told["figures"]["8"]["panels"][0]["curves"]
    assert corrected["mean"] == pytest.approx(data.evidence.of("entropy_bits")[1:, 0].tolist())  # depth 0 is not drawn
    assert set(v1["mean"]) == {None} and set(corrected["low"]) == {None}
    density = {curve["name"]: curve["mean"] for curve in told["figures"]["6"]["panels"][1]["curves"]}
    assert density["prediction"] == pytest.approx((100 * data.census.prediction / 1536).tolist())
    assert len(told["claims"]) == 20 and len(told["stages"]) == 4 and told["references"] == []
    assert told["stages"][1]["visible"] is False and told["stages"][1]["first_layer"]["value"] is None


def test_heads_and_probes_are_drawn_as_they_were_told_or_their_absence_is():
    data = make_data()
    figures = paper.paper_json(data)["figures"]
    layer, head = data.heads.ranked()[0]
    searched, held = figures["9"]["panels"][1]["curves"]
    assert searched["mean"][0] == pytest.approx(data.heads.score[layer, head, 0]) and f"{layer}.{head}" in figures["9"]["caption"]
    assert held["low"][0] == pytest.approx(data.heads.held[layer, head, 1])
    together = {curve["name"]: curve for curve in figures["10"]["panels"][1]["curves"]}
    wanted = [score for score in data.probe.ensembles if score.kind == "suppression"]
    assert together["suppression"]["mean"] == pytest.approx([score.accuracy for score in wanted])
    assert together["suppression"]["x"] == pytest.approx(np.log2([score.size for score in wanted]).tolist())
    nothing = Failure("usage", f"12 words are too few {HOSTILE}.")
    told = paper.paper_json(replace(data, heads=nothing, probe=nothing))
    assert "12 words" in told["figures"]["9"]["caption"] and told["figures"]["10"]["panels"] == []
    assert "12 words" in next(claim["reason"] for claim in told["claims"] if claim["id"] == "heads-join")
    ET.fromstring(paper.page(replace(data, heads=nothing, probe=nothing)))


def test_the_ratio_of_means_is_of_the_pooled_means():
    data = make_data()
    rows = [NAMES.index(name) for name in ("attn_norm", "mlp_norm")]
    attn, mlp = (data.evidence.sums[:, row, :-1] for row in rows)
    attn *= np.linspace(0.5, 1.5, len(attn))[:, None]  # else the same in every document
    curves = paper.paper_json(data)["figures"]["5"]["panels"][1]["curves"]
    assert curves[1]["name"] == "ratio of means"
    assert np.allclose(curves[1]["mean"], attn.sum(0) / mlp.sum(0))
    assert all(low < mean < high for low, mean, high in zip(*(curves[1][n] for n in ("low", "mean", "high")), strict=True))


def test_an_unoriented_census_tells_no_signs():
    data = make_data()
    data = replace(data, census=replace(data.census, orientation="none", null_above=0.62))
    names = [curve["name"] for curve in paper.paper_json(data)["figures"]["6"]["panels"][1]["curves"]]
    page = paper.page(data)
    assert names == ["all with kurtosis > 10"] and "no text oriented them" in page and "degenerate" in page


HUB = "Hugging Face openai-community/gpt2, revision 607a30d7"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (GPT2 | {"name": "gpt2", "source": HUB}, ("gpt2", True)),
        (GPT2 | {"name": "gpt2", "source": "directory /models/gpt2"}, ("gpt2", False)),
        (GPT2 | {"name": "gpt2", "source": "Hugging Face mine/gpt2, revision 1"}, None),  # a tuned copy, say
        (GPT2 | {"name": "my-model", "source": "directory /models/my-model"}, None),
        (GPT2 | {"name": "gpt2", "source": HUB, "n_layers": 10}, None),
        (GPT2 | {"name": "gpt2", "source": HUB, "d_model": 1024}, None),
        ({"name": "pythia-410m-deduped", "source": "directory /p", "architecture": "GPTNeoXForCausalLM", "n_layers": 24, "d_model": 1024},
         ("pythia-410m", False)),
        ({"name": "stanford-crfm/arwen-gpt2-medium-x21", "source": "Hugging Face stanford-crfm/arwen-gpt2-medium-x21, revision 1",
          "architecture": "GPT2LMHeadModel", "n_layers": 24, "d_model": 1024}, ("stanford-crfm gpt2-medium", True)),
        ({"name": "smollm2-135m", "source": "4-bit"}, None),
    ],
)  # fmt: skip
def test_published_values_are_of_the_same_model_alone(info, expected):
    model: ModelInfo = replace(make_info(), **info)
    known = reference(model)
    assert (known and (known.name, known.sure)) == expected
    if known and not known.sure:
        assert known.why.startswith("Perhaps")


@pytest.mark.parametrize(("source", "words"), [(HUB, "under that id"), ("directory /models/gpt2", "perhaps this model")])
def test_published_values_stand_beside_the_measured(source, words):
    data = make_data(name="gpt2", source=source, architecture="GPT2LMHeadModel", d_model=768)
    told = paper.paper_json(data)
    (published,) = [c for c in told["figures"]["4"]["panels"][0]["curves"] if c["name"].startswith("published")]
    assert published["mean"][2] == 0.102 and published["x"][2] == 2
    page = paper.page(data)
    assert words in page and "What differs" in page


def test_writing_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    old = os.umask(0o027)
    try:
        for _ in range(2):
            written = paper.write(tmp_path / "smollm2-1.7b", make_data())
    finally:
        os.umask(old)
    assert [path.name for path in written] == ["smollm2-1.7b", "smollm2-1.7b.json"]
    assert sorted(os.listdir(tmp_path)) == ["smollm2-1.7b", "smollm2-1.7b.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o640}
    for path in (tmp_path / "none" / "x.html", tmp_path / "numbers.json", tmp_path):
        with pytest.raises(OSError):
            paper.write(path, make_data())
    assert len(os.listdir(tmp_path)) == 2 and not tmp_path.with_name(f"{tmp_path.name}.json").exists()
