"""onnxruntime's CPU provider: what it makes one integer kernel of when it finds QuantizeLinear around it.

Its convolutions need their result quantized too, its products of matrices give f32. On a CPU with VNNI its kernels take
u8 times i8.
"""

from tdagger.quantization.profile import Numbers, Profile, Row

WEIGHT = Numbers("i8", symmetric=True, per="channel", narrow=True)
ACTIVATION = Numbers("u8", observer="mse")
SECOND = Numbers("i8", observer="mse")

PROFILE = Profile(
    name="onnxruntime",
    about="onnxruntime on a CPU: u8 activations, i8 weights per channel",
    weight=WEIGHT,
    activation=ACTIVATION,
    rows={
        "convolution": Row((0, 1), weight=1, channel=0, bias=2, output=True),
        "linear": Row((0, 1), weight=1, channel=0, bias=2),
        "matmul": Row((0, 1), weight=1, channel=-1, summed=-2, second=SECOND),
        "addmm": Row((1, 2), weight=2, channel=-1, summed=-2, bias=0, second=SECOND),
        "add": Row((0, 1), output=True, follows=True),
        "embedding": Row((0,), weight=0, channel=0, summed=1),
    },
    fused=frozenset({"relu", "relu6", "hardtanh", "clamp"}),
    shares=frozenset({"max_pool", "reshape", "group", "ungroup", "permute", "repeat", "slice"}),
    least=64,
)
