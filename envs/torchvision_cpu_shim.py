"""Lets a CUDA build of torchvision import beside a CPU-only build of torch.

The registry's torchvision for Linux is a CUDA build. Beside CPU-only torch its C++ library cannot be loaded, so
`import torchvision` dies with "operator torchvision::nms does not exist", and transformers' image processors with it.
`make setup` puts this module and a one-line .pth file into the virtual environment, so it also covers subprocesses.
Just before torchvision is imported it tries that C++ library: where it loads, nothing else happens; where it does not,
the two operators that torchvision looks up while it is imported are declared (torchvision.ops itself stays unusable).
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path


def library_loads(torch, package: Path) -> bool:
    """True where torchvision's own operators load, or where it ships none."""
    try:
        for library in package.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


class _Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            spec = PathFinder.find_spec("torchvision")
            if spec and not library_loads(torch, Path(spec.origin).parent):
                self.declared = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    self.declared.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                sys.modules["_torchvision_cpu_shim_active"] = self  # keeps the declarations alive
        # the usual finders go on; they find torchvision now


sys.meta_path.insert(0, _Finder())
