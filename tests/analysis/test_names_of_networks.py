"""What axes of real networks are called, with no hint given."""

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

import tdagger as td  # noqa: E402

torch.set_num_threads(1)


def imported(model, *args, **kwargs):
    return td.from_torch(model.eval(), args, kwargs)


def vision(name, **options):
    size = options.get("img_size", 64)
    return imported(timm.create_model(name, **options), torch.zeros(1, 3, size, size))


def ids():
    return torch.arange(14).reshape(2, 7)


def of(dag, name):
    """The values of an op, in order."""
    return [v for v in dag.graph.values if v.op.name == name]


def attended(dag, op="scaled_dot_product_attention"):
    """What the first attention takes as q, k, v, and gives."""
    axes = dag.axes()
    first = of(dag, op)[0]
    return [axes.shape(v) for v in (*first.args[:3], first)]


def test_resnet():
    dag = imported(timm.create_model("resnet18"), torch.zeros(1, 3, 64, 64))
    axes = dag.axes()
    assert axes.shape(dag.graph.inputs["x"]) == "b c h w"
    shapes = dict.fromkeys(axes.shape(v) for v in of(dag, "relu"))
    assert list(shapes)[:3] == ["b c2 h/2 w/2", "b c3 h/4 w/4", "b c2 h/4 w/4"]
    assert list(shapes)[-2:] == ["b c12 h/32 w/32", "b c13 h/32 w/32"]
    assert not axes.opaque
    # what the blocks add up is one axis for each stage
    assert axes.sizes["c2"] == axes.sizes["c3"] == 64
    sizes = "  axes  b=1  c=3  c2..c4=64  c5..c7=128  c8..c10=256  c11..c13=512  c14=1000  h=64  w=64"
    assert sizes in str(dag).splitlines()


def test_vit():
    dag = vision("vit_tiny_patch16_224", img_size=64)
    tokens = "(1 + h/16 w/16)"
    assert dag.axes().shape(of(dag, "linear")[0]) == f"b {tokens} (3 heads d)"
    assert attended(dag) == [f"b heads {tokens} d"] * 4
    assert (dag.axes().sizes["heads"], dag.axes().sizes["d"]) == (3, 64)
    assert not dag.axes().opaque


def test_vit_that_adds_the_batch():
    inner = timm.create_model("vit_tiny_patch16_224", img_size=32)

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x[None])[0]

    dag = imported(One(), torch.zeros(3, 32, 32))
    assert dag.axes().shape(dag.graph.inputs["x"]) == "c h w"
    assert attended(dag)[0] == "b heads (1 + h/16 w/16) d"
    report = dag.rank_report()
    assert report.leftover > 0.8 * report.values
    assert dag.unbatch().rank_report().leftover == 0


def test_swin():
    dag = imported(timm.create_model("swin_tiny_patch4_window7_224"), torch.zeros(1, 3, 224, 224))
    axes = dag.axes()
    qkv = of(dag, "linear")[0]
    assert axes.shape(qkv) == "(b h2 w2) (h3 w3) (3 heads d)"
    assert axes.shape(of(dag, "convolution")[0]) == "b c2 (h2 h3) (w2 w3)"
    assert [axes.sizes[n] for n in ("b", "h", "h2", "h3", "w2", "w3", "heads", "d")] == [1, 224, 8, 7, 8, 7, 3, 32]
    assert "    h/4 = (h2 h3)" in str(axes).splitlines()
    assert all("two views" in h.reason and h.module.endswith("downsample") and ":" in h.source for h in axes.opaque)


def test_bert():
    config = transformers.BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, vocab_size=50,
        max_position_embeddings=16,
    )  # fmt: skip
    dag = imported(transformers.BertModel(config), input_ids=ids(), attention_mask=torch.ones(2, 7, dtype=torch.long))
    assert dag.axes().shape(of(dag, "linear")[0]) == "b s (h d)"
    assert attended(dag) == ["b h s d", "b h s d", "b h s d2", "b h s d2"]
    assert [dag.axes().sizes[n] for n in "bshd"] == [2, 7, 3, 8]


def test_gpt2():
    config = transformers.GPT2Config(
        n_embd=24, n_layer=2, n_head=3, vocab_size=50, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    dag = imported(transformers.GPT2Model(config), input_ids=ids())
    assert dag.axes().shape(of(dag, "addmm")[0]) == "(b s) (3 h d)"
    assert attended(dag) == ["b h s d", "b h s d", "b h s d2", "b h s d2"]
    assert [dag.axes().sizes[n] for n in "bshd"] == [2, 7, 3, 8]


def test_llama():
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=50,
    )  # fmt: skip
    mask = torch.ones(2, 7, dtype=torch.long)
    dag = imported(transformers.LlamaModel(config), input_ids=ids(), attention_mask=mask)
    assert [dag.axes().shape(v) for v in of(dag, "linear")[:3]] == ["b s (h g d)", "b s (h d)", "b s (h d2)"]
    assert attended(dag) == ["b (h g) s d", "b (h g) s d", "b (h g) s d2", "b (h g) s d2"]
    assert [dag.axes().sizes[n] for n in "bshgd"] == [2, 7, 2, 2, 8]
    assert dag.axes().shape(dag.graph.buffers["rotary_emb.inv_freq"]) == "d/2"


def test_t5():
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=3)
    dag = imported(transformers.T5EncoderModel(config), input_ids=ids())
    assert [dag.axes().shape(v) for v in of(dag, "linear")[:3]] == ["b s (h d)", "b s (h d)", "b s (h d2)"]
    assert [dag.axes().sizes[n] for n in "bshd"] == [2, 7, 3, 8]


def test_names_are_given_on_import():
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Unflatten(1, (2, 3)))
    dag = td.from_torch(model, torch.zeros(4, 8), axes="rows features")
    assert str(dag).splitlines()[1] == "  in   input: f32[rows=4 features=8]"
    assert dag.axes().show(dag.graph.outputs["out"]) == "f32[rows c c2]"
    with pytest.raises(td.TDaggerError, match="3 names for 2 dimensions"):
        td.from_torch(model, torch.zeros(4, 8), axes="a b c")


def test_attention_that_multiplies_keys_and_values_first():
    class Factored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(24, 72)

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(2, 7, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
            return q @ (k.softmax(2).transpose(2, 3) @ v)

    dag = imported(Factored(), torch.zeros(2, 7, 24))
    assert [dag.axes().shape(v) for v in of(dag, "matmul")] == ["b h d d", "b h s d"]
    assert dag.axes().shape(of(dag, "linear")[0]) == "b s (3 h d)"


def test_shuffled_groups_have_names():
    class Shuffle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped = torch.nn.Conv2d(12, 12, 1, groups=3)

        def forward(self, x):
            return self.grouped(x).reshape(2, 3, 4, 5, 5).transpose(1, 2).reshape(2, 12, 5, 5)

    dag = imported(Shuffle(), torch.zeros(2, 12, 5, 5))
    shapes = [dag.axes().shape(v) for v in (dag.graph.inputs["x"], of(dag, "convolution")[0], dag.graph.outputs["out"])]
    assert [s.rpartition(")")[0] for s in shapes] == ["b (c c2", "b (c c3", "b (c3 c"]
