"""DeBERTa: rows by offset beside Transformers' matrix of buckets, padding, and what is refused."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, build_relative_position

from falloff import hf
from falloff.hf import checking, small_models
from falloff.hf.families import deberta

SIZES = {"vocab_size": 80, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 64}
SIZES |= {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 16, "initializer_range": 0.2}


def fused(plain):
    made = copy.deepcopy(plain)
    hf.fuse(made)
    return made


@pytest.mark.parametrize("length", [1, 7, 700])
@pytest.mark.parametrize(
    ("buckets", "most"), [(256, 512), (16, 40), (15, 40), (4, 512), (5, 12), (32, 33), (64, 300), (-1, 200), (-1, 1)]
)
def test_rows_by_offset_are_those_of_the_matrix(buckets, most, length):
    """For every pair of positions, also farther apart than the model's positions."""
    config = transformers.DebertaV2Config(**SIZES | {"position_buckets": buckets}, max_relative_positions=most)
    module = DisentangledSelfAttention(config)
    assert deberta.FusedDisentangled.refusal(module) is None
    states = torch.zeros(1, length, 1)
    rows = deberta._rows_by_offset(module, length, states.device)
    span = buckets if buckets > 0 else most
    matrix = build_relative_position(states, states, buckets, most)[0]
    index = (torch.arange(length)[:, None] - torch.arange(length) + rows.shape[1] // 2).clamp(0, rows.shape[1] - 1)
    assert torch.equal(rows[0][index], (matrix + span).clamp(0, 2 * span - 1))
    assert torch.equal(rows[1][index], (span - matrix.T).clamp(0, 2 * span - 1))
    assert rows.shape[1] <= 2 * min(length, deberta._reach(buckets, most)) + 1


@pytest.mark.parametrize("kinds", ["c2p|p2c", "p2c", ""])
def test_pooled_models_of_embedded_texts(kinds):
    """With token types, given embeddings, and padding on the right as DeBERTa's tokenizer has it."""
    torch.manual_seed(0)
    config = transformers.DebertaV2Config(**SIZES | {"pos_att_type": kinds}, num_labels=3, type_vocab_size=2)
    plain = transformers.DebertaV2ForSequenceClassification(config).eval()
    mask = torch.ones(3, 90, dtype=torch.long)
    mask[1, 40:], mask[2, 3:] = 0, 0
    batch = {"inputs_embeds": torch.randn(3, 90, 48), "attention_mask": mask, "token_type_ids": torch.arange(90)[None] % 2}
    batch["token_type_ids"] = batch["token_type_ids"].expand(3, -1)
    with torch.no_grad():
        want, got = (model(**batch).logits for model in (plain, fused(plain)))
    assert checking._error(want, got) <= checking.LOGITS


def test_rows_of_padding():
    """They attend to the tokens, in Transformers to everything. A text that is all padding sees nothing."""
    torch.manual_seed(0)
    plain = small_models.MODELS["deberta-v2"]().eval()
    model = fused(plain)
    ids, mask = torch.randint(2, 80, (3, 40)), torch.ones(3, 40, dtype=torch.long)
    mask[0, 30:], mask[1] = 0, 0
    with torch.no_grad():
        want, got = (each(ids, attention_mask=mask).logits for each in (plain, model))
        ids[mask == 0] = 5
        other = model(ids, attention_mask=mask).logits
    assert checking._error(want[mask == 1], got[mask == 1]) <= checking.LOGITS
    assert (want - got)[0, 30:].abs().max() > 1e-3
    assert got.isfinite().all()
    assert torch.equal(got[mask == 1], other[mask == 1])
    model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_dropout_of_positions_and_weights_while_training():
    config = transformers.DebertaV2Config(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3)
    model = fused(transformers.DebertaV2Model(config))
    ids = torch.randint(2, 80, (1, 30))
    with torch.no_grad():
        first, second = (model.train()(ids).last_hidden_state for _ in range(2))
        whole, again = (model.eval()(ids).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(whole, again)


def test_what_is_refused():
    config = transformers.DebertaV2Config(**SIZES)
    model = fused(transformers.DebertaV2Model(config))
    with pytest.raises(ValueError, match=r"^attention_mask: got a tensor of shape \(2, 9, 9\)"):
        model.encoder(torch.zeros(2, 9, 48), torch.ones(2, 9, 9))
    with pytest.raises(ValueError, match=r"^relative_pos: got a tensor of shape \(1, 9, 9\), expected None"):
        model.encoder(torch.zeros(2, 9, 48), torch.ones(2, 9), relative_pos=torch.zeros(1, 9, 9))
    first = small_models.MODELS["deberta"]()
    first.config.pos_att_type, first.config.talking_head = ["c2p"], True
    with pytest.raises(ValueError, match="its scores and weights are mixed between heads"):
        hf.fuse(transformers.DebertaModel(first.config))
    absolute = transformers.DebertaV2Config(**SIZES | {"relative_attention": False})
    with pytest.raises(ValueError, match="it has absolute positions and no bias"):
        hf.fuse(transformers.DebertaV2Model(absolute))
    for buckets in (2, 80):
        unordered = transformers.DebertaV2Config(**SIZES | {"position_buckets": buckets}, max_relative_positions=40)
        with pytest.raises(ValueError, match=rf"its {buckets} buckets do not rise up to 40 positions"):
            hf.fuse(transformers.DebertaV2Model(unordered))


class TestCachedTables:
    """In evaluation the projected embeddings are cached, where they are a plain product, and never stale."""

    ids = torch.arange(2, 22)[None] % 80

    def model(self, **more):
        torch.manual_seed(0)
        plain = transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES | more)).eval()
        return plain, fused(plain)

    def outputs(self, *models):
        with torch.no_grad():
            return [model(self.ids).last_hidden_state for model in models]

    def check_equal(self, *models):
        want, got = self.outputs(*models)
        assert checking._error(want, got) <= checking.LOGITS

    @pytest.fixture
    def projections(self, monkeypatch):
        """The shapes of the products of each Linear: the embeddings have 2 * 16 rows."""
        shapes = []
        product = torch.nn.functional.linear

        def counted(states, *rest):
            shapes.append(tuple(states.shape))
            return product(states, *rest)

        monkeypatch.setattr(torch.nn.functional, "linear", counted)
        return shapes

    def test_a_second_call_projects_no_embeddings(self, projections):
        _, model = self.model()
        first = self.outputs(model)[0]
        assert (32, 48) in projections
        projections.clear()
        with torch.inference_mode():
            second = model(self.ids).last_hidden_state
        assert torch.equal(first, second)
        assert projections
        assert (32, 48) not in projections

    @pytest.mark.parametrize("share", [True, False])
    def test_any_way_to_change_a_parameter_is_seen(self, share):
        plain, model = self.model(share_att_key=share, norm_rel_ebd="layer_norm")
        self.check_equal(plain, model)
        names = [name for name, _ in plain.named_parameters() if "pos_" in name or "rel_emb" in name or "key_proj" in name]
        assert len(names) >= 5
        for name in names:
            for one in (plain, model):
                one.get_parameter(name).data.mul_(1.5)  # moves no version counter of the parameter
            self.check_equal(plain, model)
        for one in (plain, model):
            one.encoder.layer[1].attention.self.query_proj = torch.nn.Linear(48, 48).requires_grad_(False)
        model.encoder.layer[1].attention.self.query_proj.load_state_dict(
            plain.encoder.layer[1].attention.self.query_proj.state_dict()
        )
        self.check_equal(plain, model)

    def test_a_hook_is_called(self):
        plain, model = self.model(share_att_key=True)
        self.check_equal(plain, model)
        for one in (plain, model):
            one.encoder.layer[0].attention.self.key_proj.register_forward_hook(lambda module, args, out: out * 1.5)
        self.check_equal(plain, model)

    def test_training_and_gradients_project_anew(self, projections):
        _, model = self.model()
        self.outputs(model)
        projections.clear()
        model(self.ids)
        assert (32, 48) in projections
        projections.clear()
        self.outputs(model.train())
        assert (32, 48) in projections

    def test_under_autocast_nothing_is_cached(self):
        _, model = self.model()
        before = self.outputs(model)[0]
        with torch.autocast("cpu", torch.bfloat16):
            self.outputs(model)
        assert torch.equal(before, self.outputs(model)[0])

    def test_a_copy_has_tables_of_its_own(self):
        _, model = self.model()
        self.outputs(model)
        other = copy.deepcopy(model)
        other.encoder.rel_embeddings.weight.data.zero_()
        before, after = self.outputs(model, other)
        assert not torch.equal(before, after)
        assert torch.equal(before, self.outputs(model)[0])

    def test_a_bias_that_goes_and_a_weight_that_is_no_parameter_are_seen(self):
        plain, model = self.model(share_att_key=True)
        self.check_equal(plain, model)
        for one in (plain, model):
            one.encoder.layer[0].attention.self.query_proj.bias = None
        self.check_equal(plain, model)
        for factor in (1.0, 5.0):
            for one in (plain, model):
                projection = one.encoder.layer[0].attention.self.key_proj
                weight = factor * projection.weight.detach()
                projection._parameters.pop("weight", None)
                projection.weight = weight
            self.check_equal(plain, model)

    def test_a_setting_that_changes_is_seen(self):
        plain, model = self.model(max_relative_positions=32)
        self.check_equal(plain, model)
        for one in (plain, model):
            one.encoder.max_relative_positions = 200
            for layer in one.encoder.layer:
                layer.attention.self.max_relative_positions = 200
        self.check_equal(plain, model)

    def test_a_hook_of_all_modules_is_called(self):
        plain, model = self.model(share_att_key=True)
        self.check_equal(plain, model)

        def shift(module, args, out):
            return out + 0.5 if isinstance(module, torch.nn.Linear) else out

        handle = torch.nn.modules.module.register_module_forward_hook(shift)
        try:
            self.check_equal(plain, model)
        finally:
            handle.remove()
        self.check_equal(plain, model)

    def test_training_and_unfusing_drop_them(self):
        caches = deberta._Disentangled._caches
        _, model = self.model()
        layers = [layer.attention.self for layer in model.encoder.layer]
        self.outputs(model)
        assert all(layer in caches for layer in layers)
        model.train()(self.ids)
        assert not any(layer in caches for layer in layers)
        self.outputs(model.eval())
        hf.unfuse(model)
        assert not any(layer in caches for layer in layers)

    def test_tables_too_large_to_keep_are_as_long_as_the_call_needs(self, monkeypatch):
        _, model = self.model(max_relative_positions=32)
        monkeypatch.setattr(deberta, "MOST_NUMBERS", 0)
        seen = []
        tables = deberta._Disentangled.tables

        def watched(module, kinds, embeddings, rows, scale):
            seen.append(rows.shape[1])
            return tables(module, kinds, embeddings, rows, scale)

        monkeypatch.setattr(deberta._Disentangled, "tables", watched)
        model.encoder.get_rel_pos(torch.zeros(1, 3, 48))
        with torch.no_grad():
            model(self.ids[:, :3])
        assert seen == [7, 7]

    def test_a_kind_that_is_added_has_its_projection_compared(self):
        plain, model = self.model(share_att_key=True)
        modules = [layer.attention.self for one in (plain, model) for layer in one.encoder.layer]
        for module in modules:
            module.pos_att_type = ["c2p"]
        self.check_equal(plain, model)
        for module in modules:
            module.pos_att_type = ["c2p", "p2c"]
        self.check_equal(plain, model)
        for module in modules:
            module.query_proj.weight.data.mul_(1.5)
        self.check_equal(plain, model)
