"""Fuse a DeBERTa token classifier, and time it: the same labels, from a fraction of the work on positions.

    python examples/fuse_deberta.py                                   # the shape of deberta-v3-base, random weights
    python examples/fuse_deberta.py --model MODEL --length 1024       # a folder, or a name on a model hub

Needs: pip install 'falloff[hf]'
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, DebertaV2Config, DebertaV2ForTokenClassification

from falloff import hf


def model_of(name: str | None, layers: int, size: int) -> Any:
    """A token classifier: a trained one, or one of the shape of deberta-v3-base with random weights."""
    if name is not None:
        return AutoModelForTokenClassification.from_pretrained(name).eval()
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=1000,
        hidden_size=size,
        intermediate_size=4 * size,
        num_hidden_layers=layers,
        num_attention_heads=size // 64,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        num_labels=9,
    )
    return DebertaV2ForTokenClassification(config).eval()


def timed(model: Any, batch: dict[str, torch.Tensor], turns: int) -> tuple[torch.Tensor, float]:
    """The logits, and the median seconds of a call."""
    seconds = []
    for _ in range(turns + 1):  # the first one warms up
        start = time.perf_counter()
        with torch.no_grad():
            logits = model(**batch).logits
        seconds.append(time.perf_counter() - start)
    return logits, statistics.median(seconds[1:])


def main() -> None:
    """Time a model, fuse it, time it again, and compare what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; without it, random weights")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longer of two texts (default: 512)")
    parser.add_argument("--layers", type=int, default=12, help="of the model with random weights (default: 12)")
    parser.add_argument("--size", type=int, default=768, help="hidden size of the model with random weights (default: 768)")
    parser.add_argument("--turns", type=int, default=3, help="timed calls (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    model = model_of(options.model, options.layers, options.size)
    ids = torch.randint(5, model.config.vocab_size, (2, options.length))
    mask = torch.ones_like(ids)
    mask[1, options.length * 3 // 4 :] = 0  # the second text is shorter, and padded
    batch = {"input_ids": ids, "attention_mask": mask}

    plain, before = timed(model, batch, options.turns)
    report = hf.fuse(model)  # in place; weights and outputs stay as they are
    fused, after = timed(model, batch, options.turns)

    seen = mask.bool()
    found = {
        "fused": str(report),
        "seconds_plain": before,
        "seconds_fused": after,
        "times_faster": before / after,
        "largest_difference": (fused - plain)[seen].abs().max().item(),
        "same_labels": (fused.argmax(-1) == plain.argmax(-1))[seen].float().mean().item(),
    }
    if options.json:
        print(json.dumps(found))
        return
    print(report)
    times = f"{before:.2f} s with Transformers' attention, {after:.2f} s fused: {before / after:.1f}x"
    print(f"2 x {options.length} tokens: {times}")
    difference, same = found["largest_difference"], found["same_labels"]
    print(f"largest difference of a logit: {difference:.1e}; the same label: {same:.1%} of tokens")


if __name__ == "__main__":
    main()
