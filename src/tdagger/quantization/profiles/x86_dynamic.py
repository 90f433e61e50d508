"""CPUs by onnxruntime, where scales of activations are found when the network runs: products of matrices alone.

onnxruntime has DynamicQuantizeLinear and integer products for it. No data is needed.
"""

from tdagger.quantization.profile import Numbers, Profile, Row

PROFILE = Profile(
    name="x86-dynamic",
    about="x86 CPUs: u8 activations of scales found at run time, i8 weights per channel",
    weight=Numbers("i8", symmetric=True, per="channel", narrow=True),
    activation=Numbers("u8"),
    rows={
        "linear": Row((0, 1), weight=1, channel=0),
        "matmul": Row((0, 1), weight=1, channel=-1, summed=-2),
        "addmm": Row((1, 2), weight=2, channel=-1, summed=-2),
        "embedding": Row((0,), weight=0, channel=0, summed=1),
    },
    dynamic=True,
)
