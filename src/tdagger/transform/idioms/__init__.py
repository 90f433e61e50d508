"""What people write out by hand, as rules: a file per theme. A new one is a rule in its file and in its tuple."""

from tdagger.transform.idioms.activations import ACTIVATIONS
from tdagger.transform.idioms.attention import ATTENTION
from tdagger.transform.idioms.blocks import BLOCKS, conv_bn_relu, rotary, swiglu
from tdagger.transform.idioms.lookups import LOOKUPS
from tdagger.transform.idioms.norms import NORMS

#: Rules that put composites in the place of what was written out.
IDIOMS = (*ACTIVATIONS, *NORMS, *ATTENTION, *LOOKUPS)

__all__ = ["ACTIVATIONS", "ATTENTION", "BLOCKS", "IDIOMS", "LOOKUPS", "NORMS", "conv_bn_relu", "rotary", "swiglu"]
