"""CABLE's protocol: GPT-2 Medium, trained on 1,024 tokens of FineWeb-Edu, tested on up to 15,360."""

from falloff.lab.presets.base import Paper, Preset

_SECTION = "section 4.2"
_CODE = "src/train.py of github.com/axiomlab/Cable"

PAPER_CABLE = Preset(
    "paper-cable",
    "CABLE (Veisi et al. 2025): GPT-2 Medium, trained on 1,024 tokens, tested on 1,024 to 15,360.",
    {
        "schemes": ("cable", "alibi", "fire", "t5", "kerple-log", "rope"),
        "train_length": 1024,
        "steps": 19_073,
        "batch_size": 512,
        "accumulate": 32,
        "layers": 24,
        "width": 1024,
        "heads": 16,
        "learning_rate": 6e-4,
        "bias_learning_rate": 6e-4,
        "weight_decay": 0.1,
        "warmup": 0.0375,
        "clip_norm": 1.0,
        "precision": "bf16",
        "seeds": (1337,),
        "length_multiples": (1, 2, 4, 8, 15),
        "protocol": "non-overlapping",
        "windows": 256,
        "dataset": "HuggingFaceFW/fineweb-edu:sample-10BT",
        "text_limit": 60_000_000_000,
    },
    needs_gpu=True,
    paper=Paper(
        "Veisi, Amirzadeh and Mansourian 2025, Context-aware Biases for Length Extrapolation, arXiv 2503.08067v3",
        {
            "schemes": "Table 1, without learned and sinusoidal embeddings, which falloff's model does not have",
            "train_length": _SECTION,
            "steps": f"{_CODE}; {_SECTION} says 19k",
            "batch_size": f"{_SECTION}: 524,288 tokens for each update",
            "accumulate": f"{_SECTION}: 16 windows at once",
            "layers": _SECTION,
            "width": _SECTION,
            "heads": _SECTION,
            "learning_rate": _SECTION,
            "bias_learning_rate": f"{_CODE}: one rate for all parameters",
            "weight_decay": _CODE,
            "warmup": f"{_CODE}: 715 steps; {_SECTION} says 750",
            "clip_norm": _CODE,
            "precision": _CODE,
            "seeds": _CODE,
            "length_multiples": "Table 1, without 512, which is less than the trained length",
            "protocol": "src/evaluation.ipynb of that repository: windows that follow one another",
        },
        {
            "windows": "0.1 billion tokens are stated for the test: 256 windows of the longest length are a twenty-fifth",
            "dataset": "section 4.1 names a sample of 10 billion tokens of FineWeb-Edu; the name on the hub is not stated",
            "text_limit": "not stated; enough for 10 billion tokens",
        },
        (
            "falloff's scheme cable is that of src/Cable.py in the repository: softplus, and no weight for the query. "
            "Table 1 has two variants, with and without that weight, both with ReLU.",
            "RMSNorm and linear layers without offsets, where GPT-2 has LayerNorm and offsets; falloff's own start weights.",
            "The output head is not tied to the embedding, which adds as many parameters as the embedding has.",
            "Training windows begin at random places of the text; the repository goes through it once, in order.",
            "One bias for all layers, where a bias has parameters of its own.",
        ),
        "a sample of 10 billion tokens of FineWeb-Edu",
        "GPT-2's (tokenizer.py), its vocabulary filled up to 50,304 (section 4.2)",
        50304,
    ),
)
