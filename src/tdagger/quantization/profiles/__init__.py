"""The targets, a file each; :mod:`tdagger.quantization.profile` says what their fields mean.

>>> profile_of("x86").rows["convolution"].output
True
"""

from __future__ import annotations

from tdagger.errors import AttributeValueError
from tdagger.quantization.profile import Profile
from tdagger.quantization.profiles import (
    arm,
    coreml,
    coreml_weight_only,
    gpu_weight_only,
    onnxruntime,
    onnxruntime_bytes,
    tflite,
    x86,
    x86_avx2,
    x86_dynamic,
    xnnpack,
)

#: The targets there are, by name.
PROFILES: dict[str, Profile] = {
    m.PROFILE.name: m.PROFILE
    for m in (
        arm,
        coreml,
        coreml_weight_only,
        gpu_weight_only,
        onnxruntime,
        onnxruntime_bytes,
        tflite,
        x86,
        x86_avx2,
        x86_dynamic,
        xnnpack,
    )
}


def profile_of(target: str | Profile) -> Profile:
    """The profile of a target; AttributeValueError if there is none of that name."""
    if isinstance(target, Profile):
        return target
    if target not in PROFILES:
        raise AttributeValueError(f"there is no target {target!r}; there are {', '.join(PROFILES)}, or a Profile")
    return PROFILES[target]
