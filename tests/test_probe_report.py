"""A Probe as JSON and text: every number with its n, interval and control, and no claim beyond the intervals."""

import io
import json
from dataclasses import replace

import numpy as np
from readings import make_info
from rich.console import Console

from stagescope.engine.protocol import Probe, ProbeScore
from stagescope.reports.probe import control, probe_json, probe_text, reading

NAN = float("nan")


def score(kind, size, accuracy, spread=0.03, train=None, place=(None, None), contrast=NAN) -> ProbeScore:
    trained = accuracy if train is None else train
    return ProbeScore(kind, *place, size, contrast, trained, accuracy, accuracy - spread, accuracy + spread)


def made(**changes) -> Probe:
    kinds = {"prediction": 0.7, "suppression": 0.52, "random": 0.5}
    probe = Probe(
        make_info(4), "a text", "ends in “ing”", 24, (600, 80, 31), (420, 50, 20),
        tuple(score(kind, 1, top, place=(3, n), contrast=0.1) for kind, top in kinds.items() for n in range(7)),
        tuple(score(kind, size, top, train=top + size / 100) for kind, top in kinds.items() for size in (1, 2, 4)),
        score("model", 0, 0.9), score("model", 0, 0.8),
        (("it was", " wal\x1bking", "positive"), ("he", " ran", "negative")),
    )  # fmt: skip
    return replace(probe, **changes)


def drawn(probe: Probe, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for line in probe_text(probe, width):
        console.print(line)
    return console.file.getvalue()


def test_the_json_holds_every_number_and_is_strict():
    probe = made(mass=score("model", 0, 0.9, NAN))
    found = json.loads(json.dumps(probe_json(probe), allow_nan=False))
    assert found["schema"] == "probe/1" and found["chance"] == 0.5
    assert found["train"] == {"contexts": 600, "lemmas": 80, "documents": 31}
    assert len(found["neurons"]) == len(probe.neurons) and len(found["ensembles"]) == len(probe.ensembles)
    first = probe.neurons[0]
    assert found["neurons"][0] == {
        "kind": "prediction", "layer": 3, "index": 0, "contrast": 0.1, "train": first.train, "accuracy": first.accuracy,
        "low": first.low, "high": first.high,
    }  # fmt: skip
    assert found["mass"]["low"] is None and found["argmax"]["accuracy"] == 0.8


def test_the_text_gives_n_intervals_and_the_control_in_80_cells():
    text = drawn(made())
    assert "600 contexts, 80 lemmas, 31 documents" in text and "420 contexts, 50 lemmas, 20 documents" in text
    row = next(line for line in text.splitlines() if line.split()[:2] == ["prediction", "4"])
    assert row.split() == ["prediction", "4", "74.0", "70.0", "67-73", "50.0", "47-53"]
    assert all(line.split()[-1] == "47-53" for line in text.splitlines() if line.startswith("suppression"))
    assert "chance 50" in text and "model's mass" in text and "model's top token" in text
    assert "\x1b" not in text and "…" not in text and max(map(len, text.splitlines())) <= 80


def test_it_claims_no_more_than_the_intervals():
    """The ensemble is the one chosen in training; overlapping intervals tell nothing apart."""
    prediction, suppression, *_ = reading(made())
    assert prediction.startswith("the 4 best prediction neurons: 70.0 %, 67-73, above chance, better than 4 random")
    assert "worse than the model's own probability" in prediction
    assert "not told apart from chance, not told apart from 4 random" in suppression
    wide = made(ensembles=(score("prediction", 2, 0.7, 0.2), score("random", 2, 0.5, 0.2)))
    assert "not told apart from 2 random" in reading(wide)[0] and "none of the neurons" in reading(wide)[1]
    unknown = made(ensembles=(score("prediction", 2, 0.7, NAN), score("random", 2, 0.5, NAN)))
    assert "too few lemmas" in reading(unknown)[0] and "better" not in reading(unknown)[0]


def test_a_larger_ensemble_than_there_are_random_neurons_has_the_most_of_them_beside_it():
    probe = made(ensembles=(score("all", 32, 0.7), *(score("random", size, 0.5) for size in (1, 2))))
    assert control(probe, probe.ensembles[0]).size == 2


def test_without_any_neuron_the_models_answer_is_left():
    text = drawn(made(neurons=(), ensembles=(), examples=()))
    assert "model's mass" in text and not np.isnan(made().mass.accuracy)
