"""The repetition penalty of the paper's text evaluation: the same tokens as Hugging Face's own `generate`."""

import pytest
import torch

from evals.generation import greedy, load_model


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.5])
@pytest.mark.parametrize("checkpoint", ["tiny_model", "two_stops"])
def test_penalised_greedy_decoding_equals_generate(request, make_samples, checkpoint, penalty):
    """`generate` is told neither stop token: it reads them in the checkpoint's generation config."""
    samples = make_samples(5, images=lambda i: i % 2)
    engine = load_model(str(request.getfixturevalue(checkpoint))).engine
    ours = [r.token_ids for (r,) in engine.generate(samples, greedy(24, penalty), 1, (0,))]
    policy, theirs = engine.policy, []
    for sample in samples:
        inputs = policy.encode([sample], 2048)
        options = {"max_new_tokens": 24, "do_sample": False, "repetition_penalty": penalty}
        with torch.no_grad():
            out = policy.model.generate(**inputs, **options)
        theirs.append(tuple(out[0, inputs["input_ids"].size(1) :].tolist()))
    assert ours == theirs


def test_the_penalty_changes_what_is_said(tiny_model, make_samples):
    engine = load_model(str(tiny_model)).engine
    texts = [[r.token_ids for (r,) in engine.generate(make_samples(4), greedy(24, p), 1, (0,))] for p in (1.0, 1.5)]
    assert texts[0] != texts[1]


def test_pixel_limits_of_a_protocol_reach_the_processor(tiny_model):
    model = load_model(str(tiny_model), min_pixels=3136, max_pixels=1048576)
    assert (model.min_pixels, model.max_pixels) == (3136, 1048576)
    size = model.engine.policy.processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, 1048576)
