"""Surgery: a network with something replaced, put in, taken out, split, joined, renamed. Linear in its values.

Each function takes a network and gives another; they are the methods of :class:`tdagger.TensorDAG`, where they are
described. :mod:`.select` is how values are meant, :mod:`.edit` the one walk, :mod:`.adopt` how another network is
taken in.
"""

from tdagger.transform.surgery.join import beside, chain
from tdagger.transform.surgery.outputs import extract, split, with_outputs, without_outputs
from tdagger.transform.surgery.replace import insert, remove, replace, replace_module
from tdagger.transform.surgery.select import found
from tdagger.transform.surgery.weights import initialise, rename, trainable, with_head, with_weights
from tdagger.transform.surgery.wrap import unwrap, wrap

__all__ = [
    "beside", "chain", "extract", "found", "initialise", "insert", "remove", "rename", "replace", "replace_module",
    "split", "trainable", "unwrap", "with_head", "with_outputs", "with_weights", "without_outputs", "wrap",
]  # fmt: skip
