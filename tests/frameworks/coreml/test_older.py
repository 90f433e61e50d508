"""The older neural networks, layer by layer; coremltools' own tests of them are conformance/coreml_ops.py."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.frameworks.coreml import proto

DRAW = np.random.default_rng(0)


def network(shape: tuple[int, ...], out: tuple[int, ...] = (), exact: bool = True) -> Any:
    """A model with an input x and an output y, to which layers are added."""
    model = proto.model()
    model.specificationVersion = 4
    description = model.description
    for feature, name, sizes in ((description.input.add(), "x", shape), (description.output.add(), "y", out)):
        feature.name = name
        feature.type.multiArrayType.dataType = 65568
        feature.type.multiArrayType.shape.extend(sizes)
    model.neuralNetwork.arrayInputShapeMapping = int(exact)
    return model


def layer(model: Any, kind: str, name: str = "y", *inputs: str) -> Any:
    """A layer's parameters."""
    made = model.neuralNetwork.layers.add(name=name)
    made.input.extend(inputs or ("x",))
    made.output.append(name)
    getattr(made, kind).SetInParent()
    return getattr(made, kind)


def test_five_axes_of_an_older_convolution() -> None:
    """An array of three axes is channels, height, width inside of sequence and batch; `same` pads by itself."""
    torch = pytest.importorskip("torch")
    model = network((3, 8, 8), exact=False)
    weight, bias = (DRAW.normal(size=s).astype(np.float32) for s in ((4, 3, 3, 3), (4,)))
    p = layer(model, "convolution", "c")
    p.outputChannels, p.kernelChannels, p.nGroups, p.hasBias = 4, 3, 1, True
    p.kernelSize.extend([3, 3])
    p.same.SetInParent()
    p.weights.float16Value = weight.astype(np.float16).tobytes()
    p.bias.floatValue.extend(bias)
    layer(model, "activation", "a", "c").leakyReLU.alpha = 0.1
    layer(model, "pooling", "y", "a").globalPooling = True
    model.neuralNetwork.layers[-1].pooling.type = 1
    dag = td.from_coreml(model)
    x = DRAW.normal(size=(3, 8, 8)).astype(np.float32)
    held = torch.from_numpy(weight.astype(np.float16).astype(np.float32))
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x)[None], held, torch.from_numpy(bias), padding=1)
    wanted = torch.nn.functional.leaky_relu(wanted, 0.1).mean((0, 2, 3))
    assert np.allclose(dag.run(x), wanted.numpy(), atol=1e-5)
    assert list(dag.weights) == ["c.weights", "c.bias"]
    assert dag.run(x).shape == (4,)
    again = pickle.loads(pickle.dumps(dag))  # weights that the file holds in f16 are arrays then
    assert again.graph == dag.graph
    assert all(np.array_equal(again.weights[n], dag.weights[n]) for n in dag.state)


def test_sizes_are_worked_out_of_constants_of_layers() -> None:
    model = network((4, 6), (2, 3))
    for name, numbers in (("begin", (1, 2)), ("more", (2, 3))):
        p = layer(model, "loadConstantND", name, "x")
        del model.neuralNetwork.layers[-1].input[:]
        p.shape.append(2)
        p.data.floatValue.extend(numbers)
    layer(model, "addBroadcastable", "end", "begin", "more")
    layer(model, "sliceDynamic", "y", "x", "begin", "end")
    x = DRAW.normal(size=(4, 6)).astype(np.float32)
    assert np.array_equal(td.from_coreml(model).run(x), x[1:3, 2:5])


def test_the_two_ways_of_an_lstm_have_weights_of_their_own() -> None:
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(3, 2, bidirectional=True)
    model = network((4, 1, 3, 1, 1))
    p = layer(model, "biDirectionalLSTM")
    p.inputVectorSize, p.outputVectorSize = 3, 2
    p.params.sequenceOutput = p.params.hasBiasVectors = True
    for way, activations in (("", p.activationsForwardLSTM), ("_reverse", p.activationsBackwardLSTM)):
        for kind in ("sigmoid", "tanh", "tanh"):
            getattr(activations.add(), kind).SetInParent()
        of = {n: getattr(lstm, f"{n}_l0{way}").detach() for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        each = {"WeightMatrix": of["weight_ih"], "RecursionMatrix": of["weight_hh"],
                "BiasVector": of["bias_ih"] + of["bias_hh"]}  # fmt: skip
        weights = p.weightParams.add()
        for name, numbers in each.items():
            for gate, part in zip(("input", "forget", "block", "output"), numbers.split(2), strict=True):
                field = f"{gate}{'Input' if gate == 'block' else 'Gate'}{name}"
                getattr(weights, field).floatValue.extend(part.reshape(-1).tolist())
    x = DRAW.normal(size=(4, 1, 3)).astype(np.float32)
    found = td.from_coreml(model).run(x[..., None, None])
    np.testing.assert_allclose(found.reshape(4, 1, 4), lstm(torch.from_numpy(x))[0].detach(), atol=1e-6)


def test_quantized_weights_of_layers() -> None:
    """By a scale and a bias of each row, and by a table, of numbers packed in four bits."""
    model = network((4,))
    p = layer(model, "innerProduct")
    p.inputChannels, p.outputChannels = 4, 2
    p.weights.rawValue = bytes([0x12, 0x34, 0x56, 0x78])  # the highest bits first
    p.weights.quantization.numberOfBits = 4
    p.weights.quantization.linearQuantization.scale.extend([1.0, 2.0])
    p.weights.quantization.linearQuantization.bias.extend([0.0, 1.0])
    assert td.from_coreml(model).run(np.eye(4, dtype=np.float32)[0]).tolist() == [1, 11]
    p.weights.quantization.lookupTableQuantization.floatValue.extend(range(0, 160, 10))
    dag = td.from_coreml(model)
    assert dag.weights["y.weights"].tolist() == [[10, 20, 30, 40], [50, 60, 70, 80]]
    p.weights.rawValue = bytes(3)
    with pytest.raises(td.SourceError, match="3 bytes aren't 8 numbers of 4 bits"):
        td.from_coreml(model)


def _packed(codes: np.ndarray, bits: int) -> bytes:
    """As coremltools packs them: one after the other, the highest bit first."""
    return np.packbits(np.unpackbits(codes.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]).tobytes()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("back", [False, True], ids=["convolution", "transposed"])
def test_weights_of_few_bits(bits: int, back: bool) -> None:
    """With a scale for each output channel, which is the second axis of a transposed convolution; and by a table.

    coremltools' own dequantization gives these numbers for all its layers.
    """
    model, shape = network((1, 4, 5, 6)), (4, 6, 3, 2) if back else (6, 4, 3, 2)
    p = layer(model, "convolution", "y")
    p.outputChannels, p.kernelChannels, p.nGroups, p.isDeconvolution = 6, 4, 1, back
    p.kernelSize.extend([3, 2])
    p.valid.SetInParent()
    codes = DRAW.integers(0, 1 << bits, shape)
    scale, bias = (DRAW.normal(size=6).astype(np.float32) for _ in range(2))
    p.weights.rawValue, p.weights.quantization.numberOfBits = _packed(codes, bits), bits
    linear = p.weights.quantization.linearQuantization
    linear.scale.extend(scale)
    linear.bias.extend(bias)
    along = (1, 6, 1, 1) if back else (6, 1, 1, 1)
    wanted = codes * scale.reshape(along) + bias.reshape(along)
    assert np.allclose(td.from_coreml(model).weights["y.weights"], wanted, atol=1e-5)
    linear.scale.append(1.0)
    with pytest.raises(td.SourceError, match=r"layer y \(convolution\): 7 scales and 6 biases aren't for 6 channels"):
        td.from_coreml(model)
    table = DRAW.normal(size=1 << bits).astype(np.float32)
    p.weights.quantization.lookupTableQuantization.floatValue.extend(table)
    assert np.array_equal(td.from_coreml(model).weights["y.weights"], table[codes])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (2, 4, 2, 3)])
def test_a_matrix_of_a_batched_product_is_held_transposed(shape: tuple[int, ...]) -> None:
    model = network(shape)
    matrix, bias = (DRAW.normal(size=s).astype(np.float32) for s in ((3, 5), (5,)))
    p = layer(model, "batchedMatmul")
    p.weightMatrixFirstDimension, p.weightMatrixSecondDimension, p.hasBias = 3, 5, True
    p.transposeB = True  # coremltools sets it beside a matrix that it has transposed already
    p.weights.floatValue.extend(matrix.T.reshape(-1))
    p.bias.floatValue.extend(bias)
    x = DRAW.normal(size=shape).astype(np.float32)
    assert np.allclose(td.from_coreml(model).run(x), x @ matrix + bias, atol=1e-5)


@pytest.mark.parametrize(("padding", "size"), [(0, (2, 2, 3)), (1, (1, 2, 2)), (2, (2, 3, 3))])
def test_paddings_of_a_pool_of_three_axes(padding: int, size: tuple[int, ...]) -> None:
    """As they are given, none, and as many windows as there are strides."""
    model = network((1, 1, 4, 5, 6))
    p = layer(model, "pooling3d")
    p.kernelDepth, p.kernelHeight, p.kernelWidth, p.strideDepth, p.strideHeight, p.strideWidth = 3, 2, 3, 2, 2, 2
    p.customPaddingFront = p.customPaddingRight = 1
    p.paddingType = padding
    assert td.from_coreml(model).run(DRAW.normal(size=(1, 1, 4, 5, 6)).astype(np.float32)).shape == (1, 1, *size)


def test_random_numbers_of_layers() -> None:
    """Of a shape that is told, that of an input, or the numbers in one; by a seed that the network takes."""
    model = network((400, 50))
    static = layer(model, "randomUniformStatic", "u", "x")
    del model.neuralNetwork.layers[-1].input[:]
    static.minVal, static.maxVal = 2.0, 4.0
    static.outputShape.extend([400, 50])
    layer(model, "randomNormalLike", "n", "x").stdDev = 3.0
    layer(model, "add", "un", "u", "n")
    layer(model, "getShape", "shape", "x")
    layer(model, "randomBernoulliDynamic", "b", "shape").prob = 1.0
    layer(model, "add", "y", "un", "b")
    dag = td.from_coreml(model)
    assert list(dag.graph.inputs) == ["x", "seed"]
    y = dag.run(np.zeros((400, 50), np.float32), seed=np.uint64(7))
    assert y.mean() == pytest.approx(4.0, abs=0.1)
    assert y.std() == pytest.approx((9 + 4 / 12) ** 0.5, abs=0.1)


def test_an_image_is_scaled_and_shifted_before_the_first_layer() -> None:
    model = network(())
    image = model.description.input[0].type.imageType
    image.width, image.height, image.colorSpace = 4, 2, 20
    model.neuralNetwork.imageInputShapeMapping = 1
    scaler = model.neuralNetwork.preprocessing.add(featureName="x").scaler
    scaler.channelScale, scaler.redBias, scaler.blueBias = 0.5, 1.0, -1.0
    layer(model, "activation").linear.alpha = 2.0
    dag = td.from_coreml(model)
    assert dag.graph.inputs["x"].shape == (1, 3, 2, 4)
    out = dag.run(np.full((1, 3, 2, 4), 10, np.float32))
    assert out[0, :, 0, 0].tolist() == [12, 10, 8]


def test_a_classifier_gives_its_probabilities() -> None:
    model = network((1, 3))
    model.neuralNetworkClassifier.arrayInputShapeMapping = 1
    made = model.neuralNetworkClassifier.layers.add(name="soft")
    made.input.append("x")
    made.output.append("p")
    made.softmaxND.axis = -1
    model.neuralNetworkClassifier.labelProbabilityLayerName = "p"
    del model.description.output[:]
    label, table = model.description.output.add(name="label"), model.description.output.add(name="table")
    label.type.stringType.SetInParent()
    table.type.dictionaryType.stringKeyType.SetInParent()
    with pytest.warns(UserWarning, match="label is a label, which isn't given"):
        dag = td.from_coreml(model)
    assert list(dag.graph.outputs) == ["table"]
    assert dag.run(np.zeros((1, 3), np.float32)).tolist() == pytest.approx(np.full((1, 3), 1 / 3))


def test_what_has_no_rule_is_named() -> None:
    model = network((2,))
    layer(model, "custom", "a")
    layer(model, "NonMaximumSuppression", "b")
    layer(model, "dot", "y", "x", "x")
    with pytest.raises(td.UnsupportedError) as e:
        td.from_coreml(model)
    told = str(e.value)
    assert "custom: it is code of an app's own (at a)" in told
    assert "NonMaximumSuppression: it keeps or drops boxes" in told
    assert told.startswith("3 layers of 3 ops can't be imported")


def test_every_layer_has_a_rule_or_a_reason() -> None:
    import tdagger.frameworks.coreml.layers.network  # fills the table
    from tdagger.frameworks.coreml.layers import control
    from tdagger.frameworks.coreml.layers.table import LAYERS, REASONS

    assert tdagger.frameworks.coreml.layers.network is not None
    kinds = proto.module("NeuralNetwork_pb2").NeuralNetworkLayer.DESCRIPTOR.oneofs_by_name["layer"].fields
    assert [f.name for f in kinds if f.name not in {*LAYERS, *control.LAYERS, *REASONS}] == []


# --- malformed files ---------------------------------------------------------------------------------------


def _layers() -> bytes:
    """A small file with weights as floats, halves and packed integers, sizes, axes and a recurrent layer."""
    model = network((3, 6, 6), exact=False)
    p = layer(model, "convolution", "c")
    p.outputChannels, p.kernelChannels, p.nGroups, p.hasBias = 4, 3, 1, True
    p.kernelSize.extend([3, 3])
    p.stride.extend([2, 2])
    p.valid.SetInParent()
    p.weights.float16Value = DRAW.normal(size=(4, 3, 3, 3)).astype(np.float16).tobytes()
    p.bias.floatValue.extend(range(4))
    layer(model, "pooling", "p", "c").globalPooling = True
    layer(model, "flatten", "f", "p")
    p = layer(model, "innerProduct", "i", "f")
    p.inputChannels, p.outputChannels = 4, 2
    p.weights.rawValue = bytes([0x12, 0x34, 0x56, 0x78])  # the highest bits first
    p.weights.quantization.numberOfBits = 4
    p.weights.quantization.linearQuantization.scale.extend([1.0, 2.0])
    layer(model, "reshapeStatic", "r", "i").targetShape.extend([1, 1, 2])
    p = layer(model, "sliceStatic", "s", "r")
    for field, number in (("beginIds", 0), ("endIds", 1), ("strides", 1), ("beginMasks", True), ("endMasks", True)):
        getattr(p, field).extend([number] * 3)
    layer(model, "transpose", "t", "s").axes.extend([0, 2, 1])
    layer(model, "softmaxND", "y", "t").axis = -1
    return model.SerializeToString()


def _tried(data: bytes) -> str:
    """What becomes of a file: it is read and runs, or one typed error."""
    try:
        dag = td.from_coreml(data)
        if sum(v.type.size for v in dag.values) < 1 << 20:
            with np.errstate(all="ignore"):
                dag.run(*[np.zeros(v.shape, v.dtype.numpy) for v in dag.graph.inputs.values()])
    except td.TDaggerError as e:
        return type(e).__name__
    return "read"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("step", "flips"), [(9, 100), pytest.param(1, 5000, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_cut_and_changed_files_are_one_typed_error(step: int, flips: int) -> None:
    data, draw = _layers(), np.random.default_rng(0)
    assert _tried(data) == "read"
    cut = [_tried(data[:n]) for n in range(0, len(data), step)]
    assert set(cut) <= {"SourceError", "UnsupportedError", "InputError", "read"}
    assert cut.count("read") < len(cut) / 4
    tracemalloc.start()
    for _ in range(flips):
        changed = bytearray(data)
        for at in draw.integers(0, len(data), draw.integers(1, 4)):
            changed[at] ^= 1 << int(draw.integers(8))
        _tried(bytes(changed))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20
