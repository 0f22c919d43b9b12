"""FIRE's protocol, as far as it could be read: trained on 2,048 tokens, tested on up to 8,192."""

from falloff.lab.presets.base import Paper, Preset
from falloff.lab.presets.kerple import PAPER_KERPLE

_UNREAD = "not read in a source: as in paper-kerple"
_TAKEN = (
    *("steps", "layers", "width", "heads", "precision"),
    *("learning_rate", "bias_learning_rate", "weight_decay", "warmup", "clip_norm"),
)

PAPER_FIRE = Preset(
    "paper-fire",
    "FIRE (Li et al. 2024): trained on 2,048 tokens, tested on 2,048 to 8,192; its model and rates are not confirmed.",
    {
        "schemes": ("fire", "t5", "alibi", "kerple-log"),
        "train_length": 2048,
        "batch_size": 8,
        "seeds": (0,),
        "length_multiples": (1, 2, 4),
        "protocol": "non-overlapping",
        "windows": 256,
    }
    | {name: PAPER_KERPLE.settings[name] for name in _TAKEN},
    needs_gpu=True,
    paper=Paper(
        "Li et al. 2024, Functional Interpolation for Relative Positions Improves Long Context Transformers, "
        "arXiv 2310.04418",
        {
            "schemes": "the abstract: T5's RPE, Alibi and Kerple beside FIRE",
            "train_length": "section 1: training inputs of 2048 as the example",
            "length_multiples": "section 1: tests on 8192 as the example",
        },
        {
            "batch_size": "not read in a source: as many tokens in a batch as paper-kerple has",
            "seeds": "not read in a source",
            "protocol": "not read in a source",
            "windows": "not read in a source",
        }
        | dict.fromkeys(_TAKEN, _UNREAD),
        (
            "Only the trained length, the test lengths and the schemes are known to be the paper's: see the other settings.",
            "falloff's model: RMSNorm, GELU, an output head of its own, one bias for all layers.",
        ),
        "not read in a source: summaries of the paper name C4 for training, and C4, arXiv and GitHub for tests",
        "not read in a source; a plan counts with GPT-2's",
        50257,
    ),
)
