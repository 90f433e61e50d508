"""Devices where reading the weights takes the time: i4 in blocks of 32, activations in float. No data is needed."""

from tdagger.quantization.profile import Numbers, Profile, Row

PROFILE = Profile(
    name="gpu-weight-only",
    about="GPUs: weights of i4 in blocks of 32, float activations",
    weight=Numbers("i4", symmetric=True, per="block", block=32, observer="mse"),
    activation=None,
    rows={
        "linear": Row((0, 1), weight=1, channel=0),
        "matmul": Row((0, 1), weight=1, channel=-1, summed=-2),
        "addmm": Row((1, 2), weight=2, channel=-1, summed=-2),
    },
)
