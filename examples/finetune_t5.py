"""Fine-tune a T5 on the text of a file, with fused attention, without, or both beside each other.

    python examples/finetune_t5.py my.txt                            # both, each in a process of its own
    python examples/finetune_t5.py my.txt --attention fused --model google/byt5-small --save tuned

The task is T5's own: spans of the text are cut out and have to be filled in. Tokens are bytes, as in ByT5, so no tokenizer
is downloaded; without --model, a small T5 begins with random weights. Needs: pip install 'falloff[hf]' accelerate
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)

from falloff import hf

PAD, END, FIRST_BYTE, LAST_SENTINEL, VOCABULARY = 0, 1, 3, 383, 384  # as in ByT5


def without_spans(text: bytes, dice: random.Random, share: float = 0.15, span: int = 12) -> tuple[list[int], list[int]]:
    """The text with sentinels where spans were, and what was there, each span behind its sentinel."""
    tokens = [byte + FIRST_BYTE for byte in text]
    count = max(1, round(len(tokens) * share / span))
    begins = sorted(dice.sample(range(0, len(tokens) - span, span + 1), count))
    given, missing, at = [], [], 0
    for number, begin in enumerate(begins):
        given += [*tokens[at:begin], LAST_SENTINEL - number]
        missing += [LAST_SENTINEL - number, *tokens[begin : begin + span]]
        at = begin + span
    return [*given, *tokens[at:], END], [*missing, END]


class Spans(torch.utils.data.Dataset):
    """Pieces of a text, each with other spans missing; the same ones each time."""

    def __init__(self, text: bytes, length: int) -> None:
        self.text, self.length = text, length

    def __len__(self) -> int:
        return max(1, len(self.text) // self.length)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        piece = self.text[index * self.length : (index + 1) * self.length]
        given, missing = without_spans(piece, random.Random(index))
        ids, labels = torch.full((self.length,), PAD), torch.full((self.length // 4 + 16,), -100)
        ids[: len(given)], labels[: len(missing)] = torch.tensor(given[: self.length]), torch.tensor(missing)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def train(asked: argparse.Namespace) -> dict[str, float | str]:
    """Train once; seconds, the growth of memory at most in MB, and the mean loss of the last quarter of steps."""
    torch.manual_seed(asked.seed)
    if asked.model:
        model = AutoModelForSeq2SeqLM.from_pretrained(asked.model)
    else:
        sizes = {"d_model": asked.width, "d_ff": 4 * asked.width, "num_layers": asked.layers, "num_heads": asked.width // 64}
        model = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **sizes, decoder_start_token_id=PAD))
    if asked.attention == "fused":
        print(hf.fuse(model), file=sys.stderr)  # the one line that it takes
    with tempfile.TemporaryDirectory() as folder:
        settings = Seq2SeqTrainingArguments(
            output_dir=folder,
            max_steps=asked.steps,
            per_device_train_batch_size=asked.batch,
            learning_rate=asked.rate,
            seed=asked.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=asked.json,
        )
        trainer = Seq2SeqTrainer(model=model, args=settings, train_dataset=Spans(asked.text.read_bytes(), asked.length))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = trainer.train()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if torch.cuda.is_available():
        grown = torch.cuda.max_memory_allocated() / 2**20
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-max(1, len(losses) // 4) :]
    if asked.save:
        model.save_pretrained(asked.save)  # a plain checkpoint, fused or not
    return {
        "attention": asked.attention,
        "seconds": found.metrics["train_runtime"],
        "megabytes": grown,
        "first_loss": losses[0],
        "last_loss": sum(last) / len(last),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a file of text")
    parser.add_argument("--attention", choices=["fused", "plain", "both"], default="both")
    parser.add_argument("--model", help="a folder or a name for from_pretrained; by default a small T5 with random weights")
    parser.add_argument("--save", type=Path, help="save the model into this folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024, help="bytes of a piece of text")
    parser.add_argument("--width", type=int, default=256, help="d_model of the small T5, a multiple of 64")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    if not asked.text.is_file() or asked.text.stat().st_size < asked.length:
        parser.error(f"text: got {str(asked.text)!r}, expected a file of at least {asked.length} bytes")
    if not 64 <= asked.length <= 8192:
        parser.error(f"--length: got {asked.length}, expected 64 to 8192")
    if asked.width % 64 or asked.width <= 0:
        parser.error(f"--width: got {asked.width}, expected a multiple of 64")
    if asked.attention == "both":  # memory that one run leaves behind must not count for the other
        if asked.save:
            parser.error("--save: which of both? expected --attention fused or plain with it")
        command = [sys.executable, __file__, *sys.argv[1:], "--json", "--attention"]
        done = [subprocess.run([*command, name], stdout=subprocess.PIPE, check=True) for name in ("plain", "fused")]
        results = [json.loads(run.stdout.splitlines()[-1]) for run in done]
    else:
        results = [train(asked)]
    if asked.json:
        print(json.dumps(results if asked.attention == "both" else results[0]))
        return 0
    for found in results:
        print(
            f"{found['attention']:>6}: {found['seconds']:.1f} s, memory grew by {found['megabytes']:.0f} MB at most, "
            f"loss {found['first_loss']:.3f} to {found['last_loss']:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
