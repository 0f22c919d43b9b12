"""Padding anywhere: which positions BLOOM counts, and the results of rows that see no token."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from falloff import alibi_slopes, hf
from falloff.hf import checking, small_models
from falloff.hf.families.alibi import _extra_channels

PREFIX = 6


def models(family):
    torch.manual_seed(0)
    plain = small_models.MODELS[family]().eval()
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    return plain, fused


def texts(kind):
    """Token ids and a mask (3, 40): the padding of each text is different."""
    ids, mask = torch.randint(2, 80, (3, 40)), torch.ones(3, 40, dtype=torch.long)
    for row, padding in enumerate((0, 4, 9)):
        if kind == "after a prefix":
            mask[row, PREFIX : PREFIX + padding] = 0
        else:
            mask[row, :padding] = 0
            mask[row, 15 : 15 + padding] = 0
            mask[row, 26 : 26 + 2 * padding : 2] = 0
    return ids, mask


@pytest.mark.parametrize("kind", ["after a prefix", "between turns"])
@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon"])
def test_padding_between_tokens(family, kind):
    """BLOOM counts positions without padding; MPT and Falcon take other ones. Rows at padding predict the next token too."""
    plain, fused = models(family)
    ids, mask = texts(kind)
    sees = mask.cumsum(1) > 0
    with torch.no_grad():
        want, got = (model(ids, attention_mask=mask, use_cache=False).logits[sees] for model in (plain, fused))
    assert checking._error(want, got) <= checking.LOGITS


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("kind", ["after a prefix", "between turns"])
def test_generation_after_padding_between_tokens(kind, cache):
    plain, fused = models("bloom")
    ids, mask = texts(kind)
    settings = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False, "use_cache": True}
    expected = plain.generate(ids, attention_mask=mask, **settings)
    more = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    assert torch.equal(fused.generate(ids, attention_mask=mask, **settings, **more), expected)
    embedded = plain.get_input_embeddings()(ids)  # as in prompt tuning
    want, got = (model.generate(inputs_embeds=embedded, attention_mask=mask, **settings) for model in (plain, fused))
    assert torch.equal(got, want)


def test_a_prefix_in_the_cache():
    """As in prefix tuning: keys that belong to no token, a mask longer than the text, and steps after that."""
    plain, fused = models("bloom")
    ids, mask = texts("after a prefix")
    found = []
    for model in (plain, fused):
        torch.manual_seed(1)
        cache = transformers.DynamicCache()
        for layer in range(2):
            cache.update(*torch.randn(2, 3, 6, PREFIX, 8), layer)
        with torch.no_grad():
            parts = [
                model(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True).logits
                for start, stop in ((PREFIX, 38), (38, 39), (39, 40))
            ]
        found.append(torch.cat(parts, 1))
    assert checking._error(*found) <= checking.LOGITS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [8, 16, 12])
def test_a_bias_by_key_is_exact_in_every_dtype(heads, dtype):
    """slope * tokens as products of numbers that the dtype holds, to float32 rounding; float16 ends at 65504."""
    skipped = torch.tensor([[0, 1, 7, 255, 256, 257, 1900, 4097, 65535, 65536, 69999]]).repeat(1, 6400)
    scale = 0.125
    of_query, of_key = _extra_channels(skipped, torch.empty(1, heads, 1, 64, dtype=dtype), scale)
    assert of_query.dtype == of_key.dtype == dtype
    found = scale * (of_query[:, 0].double() @ of_key[0, 0, :11].double().T)
    want = alibi_slopes(heads)[:, None] * skipped[:, :11]
    accuracy = 2.0**-20 if dtype == torch.float16 else 2.0**-23
    torch.testing.assert_close(found, want, rtol=accuracy, atol=0)


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon", "inkling"])
def test_only_the_prediction_of_a_first_token_after_padding_differs(family):
    """The row before it sees no token: zero here, in Transformers the mean of all values, even those of the future."""
    plain, fused = models(family)
    ids, mask = texts("after a prefix")
    mask[:] = 1
    mask[1, :4], mask[2, :9] = 0, 0
    other = ids.clone()
    other[:, -1] = (ids[:, -1] - 1) % 78 + 2
    with torch.no_grad():
        want, got, later = (
            model(which, attention_mask=mask, use_cache=False).logits
            for model, which in ((plain, ids), (fused, ids), (fused, other))
        )
    sees = mask.cumsum(1) > 0
    assert checking._error(want[sees], got[sees]) <= checking.LOGITS
    assert got.isfinite().all()
    assert torch.equal(got[~sees], later[~sees])


@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_a_text_that_is_all_padding(family):
    """Its rows see no token, in the encoder and from the decoder; the rows of the other texts do not change."""
    plain, fused = models(family)
    ids, mask = texts("between turns")
    mask[1] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids[:, :9].clone()}
    batch["labels"][1] = -100
    for model in (plain, fused):
        model(**batch).loss.backward()
    with torch.no_grad():
        want, got = (model(**batch) for model in (plain, fused))
    assert checking._error(want.logits[::2], got.logits[::2]) <= checking.LOGITS
    assert checking._error(want.loss, got.loss) <= checking.LOGITS
    assert got.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in fused.parameters() if parameter.grad is not None)
    # Zero attention from the decoder: the same whatever the text of padding is.
    batch["input_ids"][1] = 5
    with torch.no_grad():
        assert torch.equal(fused(**batch).logits[1], got.logits[1])


def test_heads_too_large_for_a_bias_on_the_keys_say_so():
    config = transformers.BloomConfig(vocab_size=80, hidden_size=512, n_layer=1, n_head=2)
    model = transformers.BloomForCausalLM(config).eval()
    hf.fuse(model)
    ids, mask = texts("between turns")
    model(ids)
    with pytest.raises(ValueError, match=r"model: got heads of size 256, expected at most 255 .*falloff.hf.unfuse\(model\)"):
        model(ids, attention_mask=mask)
