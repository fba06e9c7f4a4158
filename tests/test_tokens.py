"""Ids to text and back, for each kind of tokenizer, read off the tokenizer itself."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from stagescope.engine.tokens import PromptError, encode, light_tokenizer, texts, token_text, vocabulary_size


def byte_level():
    """GPT-2's kind: every byte a token, one special token, and words added: a run of spaces as in gpt-neox."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the city of the été 中中 the city"] * 4, trainer)
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("éé", normalized=False)])
    return tokenizer


def sentencepiece():
    """Llama-2's and Gemma's kind: ▁ for a space, <0x..> for bytes, a run of ▁ as an added token."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", *fallback, "▁", "t", "h", "e", "▁t", "he", "▁the"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<s>", "<unk>", "<a▁b>"])
    tokenizer.add_tokens([AddedToken("▁▁▁", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


class Slow(PreTrainedTokenizer):
    """A transformers tokenizer in Python, which has no decoder to ask: one token a character."""

    def __init__(self, pieces):
        self.pieces = pieces
        super().__init__(unk_token=pieces[0])

    @property
    def vocab_size(self):
        return len(self.pieces)

    def get_vocab(self):
        return {piece: number for number, piece in enumerate(self.pieces)}

    def _tokenize(self, text, **_):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.pieces.index(token) if token in self.pieces else 0

    def _convert_id_to_token(self, index):
        return self.pieces[index]


def spelled(tokenizer, piece):
    return token_text(tokenizer, tokenizer.token_to_id(piece))


def test_byte_level_pieces():
    tokenizer = byte_level()
    assert spelled(tokenizer, "Ġthe") == " the"
    assert spelled(tokenizer, "Ċ") == "\\u{a}"
    assert spelled(tokenizer, "Ã") == "\\xc3"
    assert spelled(tokenizer, "Ã©") == "é"
    assert spelled(tokenizer, "<|endoftext|>") == "<|endoftext|>"
    assert spelled(tokenizer, "    ") == "    "
    assert spelled(tokenizer, "éé") == "éé"  # an added word is text, not two bytes


def test_byte_level_pieces_that_are_partly_text():
    tokenizer = Tokenizer(models.BPE({"Ġà¤": 0, "é": 1, "ÂĽ": 2, "ä¸ŃĠÿ": 3, "|中|": 4}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    assert tokenizer.decoder is None
    assert texts(tokenizer, range(5)) == {0: " \\xe0\\xa4", 1: "\\xe9", 2: "\\u{9b}", 3: "中 \\xff", 4: "|中|"}


def test_sentencepiece_pieces():
    tokenizer = sentencepiece()
    assert spelled(tokenizer, "▁the") == " the"
    assert spelled(tokenizer, "<0x0A>") == "\\u{a}"
    assert spelled(tokenizer, "<0x41>") == "A"
    assert spelled(tokenizer, "<0xE4>") == "\\xe4"
    assert spelled(tokenizer, "▁▁▁") == "   "
    assert spelled(tokenizer, "<s>") == "<s>"
    assert spelled(tokenizer, "<a▁b>") == "<a▁b>"


def test_metaspace_is_sentencepiece_and_an_unknown_kind_is_left_alone():
    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "Ġ": 1}))
    assert texts(tokenizer, [0, 1]) == {0: "▁the", 1: "Ġ"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert texts(tokenizer, [0, 1]) == {0: " the", 1: "Ġ"}


@pytest.mark.parametrize("build", [byte_level, sentencepiece])
def test_a_fast_transformers_tokenizer_reads_as_the_light_one(build):
    light = build()
    fast = PreTrainedTokenizerFast(tokenizer_object=build())
    prompt = "the city\n of 中 été    x"
    assert encode(fast, prompt, 7) == encode(light, prompt, 7)
    size = vocabulary_size(light)
    assert vocabulary_size(fast) == size
    assert texts(fast, range(size + 2)) == texts(light, range(size + 2))


def test_slow_transformers_tokenizers_by_guess():
    byte_kind = Slow(["<unk>", "Ġ", "Ã", "a"])
    assert texts(byte_kind, range(5)) == {0: "<unk>", 1: " ", 2: "\\xc3", 3: "a", 4: "[id 4]"}
    assert encode(byte_kind, "aĠ", 0) == [0, 3, 1]
    piece_kind = Slow(["<unk>", "▁", "Ã", "<0x0A>"])
    assert texts(piece_kind, range(4)) == {0: "<unk>", 1: " ", 2: "Ã", 3: "\\u{a}"}
    assert vocabulary_size(piece_kind) == 4


def test_ids_beyond_the_vocabulary_are_named():
    assert token_text(byte_level(), 50300) == "[id 50300]"


def test_encode_adds_the_prefix_and_nothing_else():
    tokenizer = sentencepiece()
    assert tokenizer.encode("the").ids[0] == 1  # its own template would
    assert encode(tokenizer, "the", None) == encode(tokenizer, "the", 1)[1:]
    assert encode(tokenizer, "the", 1)[0] == 1
    assert encode(tokenizer, "", None) == []
    assert encode(tokenizer, "<s>", None) == [1]


def test_light_tokenizer_never_cuts_or_pads(tmp_path):
    assert light_tokenizer(tmp_path) is None
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(encode(light_tokenizer(tmp_path), "qqqqq", None)) == 5


def test_a_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": None}))
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer file"):
        light_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "prompt, complaint",
    [
        ("ab\udcff", r"\xff at character 3;"),
        ("\udc80\ud800", r"\x80 at character 1, \u{d800} at character 2;"),
        ("\udcff" * 5, r"\xff at character 3 and 2 more;"),
    ],
)
def test_bytes_that_are_no_text_are_refused(prompt, complaint):
    with pytest.raises(PromptError, match="the prompt holds bytes that are not UTF-8 text: ") as error:
        encode(byte_level(), prompt, None)
    assert complaint in str(error.value)


def test_the_default_model_before_torch_and_after(default_model_dir):
    light = light_tokenizer(default_model_dir)
    fast = AutoTokenizer.from_pretrained(default_model_dir)
    prompt = "The Eiffel Tower is in the city of\n\n  été 中文 12345 🙂<|im_end|>"
    assert encode(light, prompt, 0) == encode(fast, prompt, 0)
    assert vocabulary_size(light) == vocabulary_size(fast) == 49152
    assert texts(light, range(49200)) == texts(fast, range(49200))
    assert token_text(light, 0) == "<|endoftext|>"
    pieces = texts(light, encode(light, "The Eiffel Tower", 0)).values()
    assert list(pieces) == ["<|endoftext|>", "The", " E", "iffel", " Tower"]


@pytest.fixture(scope="module")
def rejoin(default_model_dir):
    tokenizer = light_tokenizer(default_model_dir)
    return lambda prompt: "".join(token_text(tokenizer, i) for i in encode(tokenizer, prompt, None))


@pytest.mark.parametrize(
    "prompt",
    [
        "The Eiffel Tower is  located in",
        " où est l'été à Zürich?",
        "ação é São Paulo",
        "столица мира",
        "η πόλη",
        "中文 の人",
        "مرحبا العربية",
        "[/] \\n <|im_end|>",
    ],
)
def test_texts_of_whole_tokens_join_to_the_prompt(rejoin, prompt):
    assert rejoin(prompt) == prompt


# SmolLM2 has no piece for some control characters and for planes 4 to 11; a backslash begins our escapes.
spellable = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\\")


@settings(deadline=None)
@given(prompt=st.text(spellable))
def test_no_byte_of_a_prompt_is_lost(rejoin, prompt):
    assert b"".join(map(unescape, re.findall(r"\\x..|\\u{.+?}|[^\\]+", rejoin(prompt)))).decode() == prompt


def unescape(part):
    if part.startswith("\\x"):
        return bytes.fromhex(part[2:])
    return (chr(int(part[3:-1], 16)) if part.startswith("\\u") else part).encode()


def test_importing_the_door_imports_no_tokenizer_library():
    program = "import sys, stagescope.engine.tokens; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert not {"numpy", "torch", "tokenizers", "transformers", "textual"} & set(loaded)
