#!/bin/sh
# coremltools 9.0 (numpy 2.3.5): a concat of constants with interleave=True is worked out as one without.
#
# MIL's concat may interleave: of [1, 2] and [10, 20] it makes [1, 10, 2, 20]. What all of whose arguments are constants
# is computed while a program is built, and there the flag is left out, so later passes put the wrong constant in its
# place. Of tensors that aren't constant the flag is kept.
#
# Output seen:
#     interleave=False  [1.0, 2.0, 10.0, 20.0]
#     interleave=True   [1.0, 2.0, 10.0, 20.0]
#     in the model      [1.0, 2.0, 10.0, 20.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet coremltools==9.0 numpy==2.3.5
cat > "$folder/program.py" <<'PROGRAM'
import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb

seen = {}


@mb.program(input_specs=[mb.TensorSpec(shape=(4,))])
def program(x):
    parts = [np.array([1, 2], np.float32), np.array([10, 20], np.float32)]
    for flag in (False, True):
        seen[f"interleave={flag}"] = mb.concat(values=parts, axis=0, interleave=flag).val.tolist()
    return mb.add(x=x, y=mb.concat(values=parts, axis=0, interleave=True))


model = ct.convert(
    program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, skip_model_load=True
)
operations = model._mil_program.functions["main"].operations
assert [op.op_type for op in operations if op.op_type != "const"] == ["add"], "the constant isn't put in its place"
seen["in the model"] = next(op for op in operations if op.op_type == "add").y.val.tolist()
for name, value in seen.items():
    print(f"{name:17}", value)
if any(value != [1.0, 2.0, 10.0, 20.0] for value in seen.values()):
    raise SystemExit("the behaviour changed")
print("as stated above")
PROGRAM
"$folder/venv/bin/python" -W ignore "$folder/program.py" 2>/dev/null
