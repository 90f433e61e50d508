"""CPUs with AVX2 or AVX-512 VNNI: u8 activations and i8 weights per channel, as onnxruntime's kernels take them."""

from dataclasses import replace

from tdagger.quantization.profiles import onnxruntime

PROFILE = replace(onnxruntime.PROFILE, name="x86", about="x86 CPUs: u8 activations, i8 weights per channel")
