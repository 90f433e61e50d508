"""Passes, functions of a network that give a network, and pipelines of them."""

from tdagger.network import N
from tdagger.transform.axes.follow import Dimensions
from tdagger.transform.passes.convert import convert_dtype
from tdagger.transform.passes.decompose import decompose
from tdagger.transform.passes.fold import fold_constants, fold_weights, freeze, keeping_open, unfreeze
from tdagger.transform.passes.layers import fold_batch_norm, fold_scales, merge_linear
from tdagger.transform.passes.layout import channels_first, channels_last
from tdagger.transform.passes.memory_format import channels_last_weights
from tdagger.transform.passes.outline import Outlined, outline
from tdagger.transform.passes.pipeline import Pipeline, Step
from tdagger.transform.passes.rank import to_rank
from tdagger.transform.passes.results import drop_unused_results
from tdagger.transform.passes.simplify import simplify, sink_transposes
from tdagger.transform.passes.transposes import join_transposes

__all__ = [
    "DEFAULT",
    "Outlined",
    "Pipeline",
    "Step",
    "channels_first",
    "channels_last",
    "channels_last_weights",
    "convert_dtype",
    "decompose",
    "drop_unused_results",
    "fold_batch_norm",
    "fold_constants",
    "fold_scales",
    "fold_weights",
    "freeze",
    "join_transposes",
    "keeping_open",
    "merge_linear",
    "optimized",
    "outline",
    "simplify",
    "sink_transposes",
    "to_rank",
    "unfreeze",
]

#: What :func:`optimized` runs.
DEFAULT = (
    simplify,
    drop_unused_results,
    fold_batch_norm,
    fold_scales,
    merge_linear,
    fold_weights,
    fold_constants,
    simplify,
    channels_last_weights,
)


def optimized(dag: N, open_: Dimensions = ()) -> N:
    """The network after the default passes, for inference: see :meth:`tdagger.TensorDAG.optimize`.

    ``open_`` are dimensions of inputs that can have other sizes as before: what follows them isn't worked out.
    """
    told = tuple(open_)
    folds = (fold_weights, fold_constants)
    return Pipeline([keeping_open(p, told) if told and p in folds else p for p in DEFAULT]).run(dag)
