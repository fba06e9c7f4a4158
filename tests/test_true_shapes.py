"""Every readout on a random model of GPT-2's true shape. `make shapes` does the same for one of each family."""

from shape_checks import ALLOWED, SHAPES, deviations


def test_every_readout_of_gpt2_at_its_true_shape_is_that_of_the_definition(tmp_path):
    found = deviations("gpt2", tmp_path)
    assert {what: by for what, by in found.items() if not by <= ALLOWED[SHAPES["gpt2"]]} == {}
