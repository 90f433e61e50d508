"""Core ML where reading the weights takes the time: i8 weights per channel, activations in float. No data is needed."""

from tdagger.quantization.profile import Numbers, Profile, Row

PROFILE = Profile(
    name="coreml-weight-only",
    about="Core ML: weights of i8 per channel, float activations",
    weight=Numbers("i8", symmetric=True, per="channel", narrow=True, observer="mse"),
    activation=None,
    rows={
        "convolution": Row((0, 1), weight=1, channel=0),
        "linear": Row((0, 1), weight=1, channel=0),
        "matmul": Row((0, 1), weight=1, channel=-1, summed=-2),
        "addmm": Row((1, 2), weight=2, channel=-1, summed=-2),
        "embedding": Row((0,), weight=0, channel=0, summed=1),
    },
)
