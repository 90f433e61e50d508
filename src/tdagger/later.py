"""What is imported when it is used: the only arrows against the line of imports, and the commands.

A function that a module to the left of its own needs has a row in the table, and is called as
``later("profile")(dag)``. No other module of tdagger is imported by its name, which a test enforces.
"""

from __future__ import annotations

import importlib
from typing import Any

_TORCH = "tdagger.frameworks.torch"
_ONNX = "tdagger.frameworks.onnx"
_TFLITE = "tdagger.frameworks.tflite"
_COREML = "tdagger.frameworks.coreml"
LATER = {
    "costs": "tdagger.analysis.formulas.formula:costs_of",
    "called": "tdagger.program.define:called",
    "simplified": "tdagger.program.simplify:simplified",
    "specialized": "tdagger.program.steady:specialized",
    "rolled": "tdagger.program.roll:rolled",
    "trusted": "tdagger.program.simplify:trusted",
    "unrolled": "tdagger.program.simplify:unrolled",
    "optimized_blocks": "tdagger.program.whole:with_optimized_blocks",
    "program_view": "tdagger.program.picture:ProgramView",
    "program_axes": "tdagger.program.whole:axes_of",
    "program_unbatched": "tdagger.program.whole:unbatched",
    "program_resized": "tdagger.program.whole:resized",
    "paired": "tdagger.transform.diff.layouts:paired",
    "diff": "tdagger.comparison:diff",
    "save": "tdagger.file.store:save",
    "load": "tdagger.file.store:load",
    "text": "tdagger.file.text:text_of",
    "parse": "tdagger.file.text:parsed",
    "hash": "tdagger.file.store:hash_of",
    "pickled": "tdagger.file.store:reduced",
    "unpickled": "tdagger.file.store:restored",
    "prunable": "tdagger.prune.finding.groups:prunable",
    "prune_plan": "tdagger.prune.plan:prune_plan",
    "low_rank": "tdagger.prune.methods.lowrank:low_rank",
    "blocks": "tdagger.prune.methods.depth:blocks",
    "without_blocks": "tdagger.prune.methods.depth:without_blocks",
    "branches": "tdagger.prune.methods.branches:branches",
    "without_branches": "tdagger.prune.methods.branches:without_branches",
    "with_vocabulary": "tdagger.prune.methods.vocabulary:with_vocabulary",
    "quantize": "tdagger.quantization.prepare:quantize",
    "dequantize": "tdagger.quantization.floats:dequantize",
    "sensitivity": "tdagger.quantization.quality.sensitivity:sensitivity",
    "with_quality": "tdagger.quantization.quality.sensitivity:with_quality",
    "prepare": "tdagger.quantization.prepare:prepare",
    "trainable": "tdagger.quantization.training.prepared:Trainable",
    "cli": "tdagger.cli.app:run",
    "cli.view": "tdagger.cli.view:view",
    "cli.cost": "tdagger.cli.cost:cost",
    "cli.compare": "tdagger.cli.compare:compare",
    "cli.diff": "tdagger.cli.diff:diff",
    "cli.prune": "tdagger.cli.prune:prune",
    "cli.quantize": "tdagger.cli.quantize:quantize",
    "cli.profile": "tdagger.cli.timing:profile",
    "cli.predict": "tdagger.cli.timing:predict",
    "cli.calibrate": "tdagger.cli.timing:calibrate",
    # What a framework does is called by its name first.
    "torch.from_torch": f"{_TORCH}.importer:from_torch",
    "torch.from_torchscript": f"{_TORCH}.importer:from_torchscript",
    "torch.from_transformers": f"{_TORCH}.source.huggingface:from_transformers",
    "torch.to_torch": f"{_TORCH}.exporter:to_torch",
    "torch.are_exact": f"{_TORCH}.integers:are_exact",
    "torch.layers_on_integers": f"{_TORCH}.integers:layers_on_integers",
    "torch.program_from_torch": f"{_TORCH}.programs:from_torch",
    "torch.program_from_torchscript": f"{_TORCH}.script.read:from_torchscript",
    "torch.program_to_torch": f"{_TORCH}.emit.program:to_torch",
    "torch.program_to_exported_program": f"{_TORCH}.emit.program:to_exported_program",
    "torch.program_to_torchscript": f"{_TORCH}.emit.program:to_torchscript",
    "torch.to_torchscript": f"{_TORCH}.exporter:to_torchscript",
    "torch.to_exported_program": f"{_TORCH}.exporter:to_exported_program",
    "torch.part_of": f"{_TORCH}.part:part_of",
    "torch.source_of": f"{_TORCH}.capture.again:source_of",
    "torch.executor": f"{_TORCH}.execute:Executor",
    "torch.profile": f"{_TORCH}.measure.profiler:profile",
    "torch.keep_memory": f"{_TORCH}.measure.profiler:keep_memory",
    "torch.calibration": f"{_TORCH}.measure.calibration",
    "torch.in_own_types": f"{_TORCH}.source.example:in_own_types",
    "torch.array": f"{_TORCH}.measure.executions:array",
    "torch.by_torch": f"{_TORCH}.measure.executions:by_torch",
    "torch.outputs": f"{_TORCH}.measure.executions:outputs",
    "torch.by_call": f"{_TORCH}.measure.executions:by_call",
    "torch.source": f"{_TORCH}.source.named",
    "torch.save": f"{_TORCH}.emit.save:save",
    "torch.learned_masks": f"{_TORCH}.prune.masks:learned_masks",
    "torch.learned_ranks": f"{_TORCH}.prune.ranks:learned_ranks",
    "torch.measure": f"{_TORCH}.prune.data:measure",
    "torch.gradients": f"{_TORCH}.prune.data:gradients",
    "torch.quantized_training": f"{_TORCH}.training:QuantizedTraining",
    "torch.state_of": f"{_TORCH}.training:state_of",
    "torch.no_grad": "torch:no_grad",
    "torch.tensor": f"{_TORCH}.runtime:tensor_of",
    "torch.distill": f"{_TORCH}.prune.distill:distill",
    "onnx.from_onnx": f"{_ONNX}.importer:from_onnx",
    "onnx.program_from_onnx": f"{_ONNX}.programs:from_onnx",
    "onnx.program_to_onnx": f"{_ONNX}.emit.program:to_onnx",
    "onnx.source": f"{_ONNX}.source:from_file",
    "onnx.to_onnx": f"{_ONNX}.exporter:to_onnx",
    "tflite.from_tflite": f"{_TFLITE}.importer:from_tflite",
    "tflite.program_to_tflite": f"{_TFLITE}.emit.program:to_tflite",
    "tflite.program_from_tflite": f"{_TFLITE}.programs:from_tflite",
    "tflite.source": f"{_TFLITE}.source:from_file",
    "tflite.to_tflite": f"{_TFLITE}.exporter:to_tflite",
    "coreml.from_coreml": f"{_COREML}.importer:from_coreml",
    "coreml.program_to_coreml": f"{_COREML}.emit.program:to_coreml",
    "coreml.program_from_coreml": f"{_COREML}.programs:from_coreml",
    "coreml.source": f"{_COREML}.source:from_file",
    "coreml.to_coreml": f"{_COREML}.exporter:to_coreml",
    "torch.constant": f"{_TORCH}.constants:constant",
}


def later(name: str) -> Any:
    """A function (or a module) of the table; KeyError if it has none of that name, ImportError if a package is missing.

    >>> later("costs").__name__
    'costs_of'
    """
    module, _, function = LATER[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, function) if function else found
