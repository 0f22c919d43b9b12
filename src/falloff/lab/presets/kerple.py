"""KERPLE's protocol: a model of 162M parameters, trained on 512 tokens, tested on up to 16,384."""

from falloff.lab.presets.base import Paper, Preset

_TABLE = "Table 2"
_TRAIN = "kerple_configs/train.yml of github.com/chijames/KERPLE"
_TEST = "kerple_configs/ex_eval.yml of that repository"

PAPER_KERPLE = Preset(
    "paper-kerple",
    "KERPLE (Chi et al. 2022): 162M parameters, trained on 512 tokens, tested on 512 to 16,384, five seeds.",
    {
        "schemes": ("kerple-log", "kerple-power", "alibi", "t5", "rope"),
        "train_length": 512,
        "steps": 50_000,
        "batch_size": 32,
        "layers": 12,
        "width": 768,
        "heads": 12,
        "learning_rate": 6e-4,
        "bias_learning_rate": 6e-4,
        "weight_decay": 0.0,
        "warmup": 0.01,
        "clip_norm": 1.0,
        "precision": "bf16",
        "seeds": (1235, 1236, 1237, 1238, 1239),
        "length_multiples": (1, 2, 4, 8, 16, 32),
        "protocol": "non-overlapping",
        "windows": 320,
    },
    needs_gpu=True,
    paper=Paper(
        "Chi et al. 2022, KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation, arXiv 2205.09921",
        {
            "schemes": "Table 3, without sinusoidal embeddings, which falloff's model does not have",
            "train_length": _TABLE,
            "steps": _TABLE,
            "batch_size": _TABLE,
            "layers": _TABLE,
            "width": _TRAIN,
            "heads": _TABLE,
            "learning_rate": _TABLE,
            "bias_learning_rate": f"{_TRAIN}: one rate for all parameters",
            "weight_decay": _TRAIN,
            "warmup": _TRAIN,
            "clip_norm": _TRAIN,
            "precision": _TABLE,
            "seeds": "generate_ymls.py of github.com/chijames/KERPLE",
            "length_multiples": "section 5.2",
            "protocol": "section 5.2: non-overlapping evaluation",
            "windows": f"{_TEST}: 320 windows",
        },
        {},
        (
            "RMSNorm and linear layers without offsets, where GPT-NeoX has LayerNorm and offsets; its own start weights.",
            "AdamW with beta2 = 0.95, where the repository has 0.999; without weight decay the two are the same otherwise.",
            "The cosine ends at a tenth of the learning rate; the repository names no end.",
            "Training windows begin at random places of the text; GPT-NeoX goes through shuffled samples.",
            "Every length is tested on the same stretch of text; the repository tests 320 windows of each length.",
        ),
        "OpenWebText2, GitHub or ArXiv, the parts of the Pile (Gao et al. 2020), one comparison for each",
        "GPT-2's (kerple_configs/local_setup.yml)",
        50257,
    ),
)
