"""Sub-joiner heads: a planted one is found and a head of fixed offset is not, all numbers are plain transformers'."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from failures import failure
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from stagescope.engine import piece_words, subjoiners
from stagescope.engine.local import LocalEngine
from stagescope.engine.protocol import FindHeads, HeadScores, Load, Progress

pytestmark = pytest.mark.usefixtures("home")

FIRST = [consonant + vowel for consonant in "bdgk" for vowel in "ao"]  # each a token, with the blank before it
MIDDLE, LAST = ["re", "ri", "le", "li", "me"], ["su", "sy", "pu", "py", "vu"]
ONE = [consonant + vowel for consonant in ("th", "f", "n") for vowel in "aeiouwz"]  # words of one token
CAPITAL = ["Ga", "Tha"]  # the same in another case
JOINER, FIXED = (1, 2), (0, 1)  # layer, head
N_LAYERS, D, N_HEADS = 3, 64, 4
FIRST_MARK, LAST_MARK, CODE = 0, 1, slice(2, 18)  # columns of the residual stream


# ------------------------------------------------------------------------------------- the planted model


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges the pieces and words above, and nothing else."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = {token: number for number, token in enumerate([tiny_models.END, *alphabet])}, []
    for whole in [*("Ġ" + word for word in (*FIRST, *ONE, *CAPITAL)), *MIDDLE, *LAST]:
        for end in range(2, len(whole) + 1):
            if whole[:end] not in vocab:
                vocab[whole[:end]] = len(vocab)
                merges.append((whole[: end - 1], whole[end - 1]))
    bpe = Tokenizer(models.BPE(vocab, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=tiny_models.END, eos_token=tiny_models.END)


def text(seed: int = 0) -> str:
    """75 words of three pieces and 20 of two, each after so many words of one that no other stands in its context."""
    rng = random.Random(seed)
    words = ["".join(parts) for parts in itertools.product(FIRST, MIDDLE, LAST)]
    words = rng.sample(words, 75) + ["".join(parts) for parts in rng.sample(list(itertools.product(FIRST, LAST)), 20)]
    rng.shuffle(words)
    return "".join(" " + " ".join([*rng.choices(ONE, k=18), word]) for word in words) + "\n"


def plant(directory: Path) -> Path:
    """GPT-2 whose head JOINER looks from last pieces to first pieces, told by marks on their embeddings, and whose head
    FIXED looks two tokens back, told by their positions. All other heads are random, and nothing writes much."""
    own = tokenizer()
    config = GPT2Config(
        vocab_size=len(own), n_embd=D, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    generator, d_head = torch.Generator().manual_seed(1), D // N_HEADS
    rates = 0.9 * torch.arange(1, d_head // 2 + 1) / (d_head // 2) * math.pi
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.02 if "c_proj" in name else 0.1, generator=generator)
        tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight
        tokens[:, : CODE.stop] = 0
        tokens[own.convert_tokens_to_ids(["Ġ" + piece for piece in FIRST]), FIRST_MARK] = 2
        tokens[own.convert_tokens_to_ids(LAST), LAST_MARK] = 2
        angle = torch.arange(128)[:, None] * rates
        positions.zero_()[:, CODE] = torch.cat([angle.cos(), angle.sin()], -1)

        def head(at: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
            """Views [D, d_head] of its W_Q and W_K, now zero."""
            made = model.transformer.h[at[0]].attn.c_attn.weight
            return tuple(made[:, d_head * part :][:, :d_head].zero_() for part in (at[1], N_HEADS + at[1]))

        query, key = head(JOINER)
        query[LAST_MARK, 0], key[FIRST_MARK, 0] = 4, 4
        query, key = head(FIXED)
        query[CODE] = turned(rates, -2) * 4
        key[CODE] = torch.eye(d_head) * 4
    model.save_pretrained(directory)
    own.save_pretrained(directory)
    return directory


def turned(rates: torch.Tensor, by: int) -> torch.Tensor:
    """[2R, 2R]: the code (row) of position p times it is the code of p + by."""
    cos, sin = (rates * by).cos().diag(), (rates * by).sin().diag()
    return torch.cat([torch.cat([cos, sin], -1), torch.cat([-sin, cos], -1)])


def loaded(directory: Path, **how) -> LocalEngine:
    engine = LocalEngine()
    for _ in engine.answer(Load(str(directory), device="cpu", **how)):
        pass
    return engine


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> LocalEngine:
    return loaded(plant(tmp_path_factory.mktemp("planted")), bos=tiny_models.END)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(text())
    return path


def take(engine: LocalEngine, request: FindHeads) -> HeadScores:
    *before, found = subjoiners.take(engine.net, engine.info, engine.request, request, engine.tokenizer)
    assert all(isinstance(reply, Progress) for reply in before)
    return found


def items_of(engine: LocalEngine, request: FindHeads) -> list[piece_words.Item]:
    finding = piece_words.find(request, engine.info, engine.tokenizer)
    while True:
        try:
            next(finding)
        except StopIteration as ended:
            return ended.value


# --------------------------------------------------------------------------------------------- the scores


def test_the_planted_joiner_is_found_and_the_head_of_fixed_offset_is_not(planted, file) -> None:
    scores = take(planted, FindHeads(str(file)))
    assert scores.words >= 20 and scores.held_words >= 10 and scores.ranked()[0] == JOINER
    mean, low, high = scores.score[JOINER]
    assert mean > 0.5 and 0 < low <= mean <= high and scores.held[JOINER][1] > 0.5
    assert scores.joined[FIXED] > 0.9 and scores.control[FIXED] > 0.9
    assert abs(scores.score[FIXED][0]) < 0.05 and abs(scores.held[FIXED][0]) < 0.05
    assert scores.score[scores.ranked()[1]][0] < 0.25  # no other head comes near
    assert all(len(word) == 3 and word[0][1:] in FIRST and word[2] in LAST for word in scores.examples)


def test_words_of_another_length_are_looked_at_across_their_own_length(planted, file, monkeypatch) -> None:
    monkeypatch.setattr(piece_words, "FEWEST", 5)
    scores = take(planted, FindHeads(str(file), pieces=2))
    assert scores.ranked()[0] == JOINER and scores.words < 20
    assert scores.joined[FIXED] < 0.1  # it looks two back, past a word of two pieces


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_every_number_is_that_of_plain_transformers(family: str, file, tmp_path) -> None:
    """gpt2 the planted one; gemma3 random, with windows of 4 tokens, and two queries a key."""
    directory = plant(tmp_path) if family == "gpt2" else tiny_models.build(family, tmp_path)
    tokenizer().save_pretrained(directory)
    engine = loaded(directory, bos="none" if family == "gpt2" else tiny_models.END)
    request = FindHeads(str(file))
    scores, items = take(engine, request), items_of(engine, request)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()

    @torch.no_grad()
    def look(ids: tuple[int, ...]) -> np.ndarray:
        """[L, H] from the last token to the second before it; each row by itself, nothing padded."""
        patterns = model(torch.tensor([ids]), output_attentions=True).attentions
        return torch.stack([pattern[0, :, -1, -3] for pattern in patterns]).double().numpy()

    joined = np.stack([look(item.context + item.pieces) for item in items])
    control = np.stack([look((*item.context, item.control)) for item in items])
    held = np.array([item.held for item in items])
    assert (scores.words, scores.held_words) == ((~held).sum(), held.sum())
    for ours, theirs in (
        (scores.joined, joined.mean(0)),
        (scores.control, control.mean(0)),
        (scores.score[..., 0], (joined - control)[~held].mean(0)),
        (scores.held[..., 0], (joined - control)[held].mean(0)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # 1.96 standard errors of the mean: what a bootstrap of 50 words comes near to
    half = 1.96 * (joined - control)[~held].std(0) / math.sqrt(scores.words)
    np.testing.assert_allclose((scores.score[..., 2] - scores.score[..., 1]) / 2, half, rtol=0.25, atol=1e-5)


def test_between_two_replies_no_hook_is_left_and_a_reading_is_right(planted, file) -> None:
    points = [block.attn.hook_pattern for block in planted.net.bridge.blocks]
    before = [len(point._forward_hooks) for point in points]
    for _ in subjoiners.take(planted.net, planted.info, planted.request, FindHeads(str(file)), planted.tokenizer):
        assert [len(point._forward_hooks) for point in points] == before


def test_a_pattern_that_overflowed_is_no_layer_without_one(planted, file) -> None:
    point = planted.net.bridge.blocks[JOINER[0]].attn.hook_q
    query = point.register_forward_hook(lambda _module, _inputs, q: q * np.nan)
    try:
        why = failure(take, planted, FindHeads(str(file)))
    finally:
        query.remove()
    assert "layer 1 are not numbers" in why.message and "float32" in why.hint


# ---------------------------------------------------------------------------------------------- the words


def test_words_are_whole_and_no_word_is_in_both_halves(planted, tmp_path) -> None:
    """What has a hyphen, a digit or an apostrophe is no word; the same in another case is the same word."""
    odd = "bore-su nu gore3su nu dore'su nu (koresu) nu balemepy nu gamesu, nu balipu. nu Gamesu"
    again = " ".join(word for _ in range(2) for word in ["gamesu", "Tha", *ONE])
    path = tmp_path / "odd.txt"
    path.write_text(" ".join(ONE) + " " + odd + " " + again + "\n" + text(seed=1))
    items = items_of(planted, FindHeads(str(path)))
    spell = planted.tokenizer.decode
    words = [spell(item.pieces) for item in items]
    assert {" gamesu", " balipu"} <= set(words) and len({word.casefold() for word in words}) == len(words)
    assert not [word for word in words if "koresu" in word or "-" in word or "balemepy" in word or "3" in word]
    for of in (lambda item: spell(item.pieces), lambda item: spell([item.control])):
        halves = [{of(item).casefold() for item in items if item.held is held} for held in (True, False)]
        assert all(halves) and not halves[0] & halves[1]
    for item in items:
        assert len(item.pieces) == 3 and item.context[0] == planted.info.prefix.id and len(item.context) == 1 + 16
        assert planted.tokenizer.encode(spell(item.pieces), add_special_tokens=False) == list(item.pieces)
    assert items == items_of(planted, FindHeads(str(path)))


def test_what_cannot_be_searched_is_refused(planted, tmp_path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(" ".join(ONE * 2 + ["baresu"]) + "\n")
    why = failure(take, planted, FindHeads(str(short)))
    assert why.kind == "usage" and "1 different words of 3 tokens" in why.message and "longer text" in why.hint
    assert failure(take, planted, FindHeads(str(short), pieces=5)).kind == "usage"


def test_scores_are_recalled_for_the_same_text_alone(planted, tmp_path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text())

    def recalled(request: FindHeads) -> HeadScores | None:
        return subjoiners.recalled(request, planted.info, planted.request, planted.tokenizer)

    scores = take(planted, FindHeads(str(path)))
    again = recalled(FindHeads(str(path)))
    assert again.cached and np.array_equal(again.score, scores.score) and again.examples == scores.examples
    assert recalled(FindHeads(str(path), pieces=2)) is None and recalled(FindHeads()) is None
    path.write_text(text() + text(seed=2))
    assert recalled(FindHeads(str(path))) is None
