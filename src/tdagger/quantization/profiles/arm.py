"""64-bit ARM CPUs: i8 activations and weights, whose products the dot product instructions add up."""

from dataclasses import replace

from tdagger.quantization.profile import Numbers
from tdagger.quantization.profiles import onnxruntime

ACTIVATION = Numbers("i8", observer="mse")

PROFILE = replace(
    onnxruntime.PROFILE, name="arm", about="64-bit ARM CPUs: i8 activations, i8 weights per channel",
    activation=ACTIVATION, least=0,
)  # fmt: skip
