"""Let torchvision be imported beside a CPU build of torch.

timm imports torchvision, and torchvision 0.28.0 has no CPU build: its compiled ops don't load beside a CPU
torch. torchvision itself tolerates that, but then registers fake kernels for two of those ops, and torch
refuses because nobody has declared them. So we declare them. Calling such an op still fails, by name; no
model that tdagger is tested on does.

``torchvision_cpu.pth`` calls :func:`install` whenever this environment's Python starts. That must stay
cheap: this module imports nothing until torchvision itself is imported.
"""

_UNDECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept_alive = []  # what a torch.library.Library declares is gone when it is collected


def install():
    """Watch for the import of torchvision."""
    import sys

    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Finds only ``torchvision.extension``, the module that tries to load the compiled ops."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision.extension":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Loads ``torchvision.extension`` as usual, then declares the ops if the compiled ones are not there."""

    def __init__(self, usual):
        self.usual = usual

    def create_module(self, spec):
        return self.usual.create_module(spec)

    def exec_module(self, module):
        self.usual.exec_module(module)
        if not module._has_ops():
            from torch.library import Library

            library = Library("torchvision", "FRAGMENT")
            for schema in _UNDECLARED:
                library.define(schema)
            _kept_alive.append(library)
