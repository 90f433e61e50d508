"""TensorFlow Lite's integer kernels: as XNNPACK, whose rules for scales are TFLite's quantization specification."""

from dataclasses import replace

from tdagger.quantization.profiles import xnnpack

PROFILE = replace(xnnpack.PROFILE, name="tflite", about="TFLite: i8 activations, i8 weights per channel")
