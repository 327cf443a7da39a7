"""Register the names of this package in the stock anomalib, without an import by the user.

anomalib 2.7.0 has no plugin mechanism: ``anomalib train --model X`` and ``get_model("x")`` search the subclasses of
``AnomalibModule`` that happen to be imported, ``get_model({"class_path": ...})`` only accepts modules of an allow list,
and ``get_datamodule`` only searches ``anomalib.data``. Something has to import and register our classes.

torch does: at the end of ``import torch`` it calls every entry point of the group ``torch.backends``
(https://docs.pytorch.org/tutorials/unstable/python_extension_autoload.html); ours is :func:`autoload`. At that moment
anomalib may be absent, half imported (``import anomalib.models`` is what imports torch) or complete, and this package
may be half imported too. So nothing happens before the outermost import of either package has finished. The import
system reports that: it binds a finished sub-module as an attribute of its parent package
(https://docs.python.org/3/reference/import.html#submodules), and we listen to that assignment.

The environment variables ``ANOMALIB_UNIAS_AUTOLOAD=0`` (this package only) and ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` (all
of torch's entry points) switch the registration off. The dotted ``--model anomalib_unias.UniAS`` needs no registration.
If torch's entry points are switched off, :func:`autoload` can be called by hand.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType

logger = logging.getLogger(__name__)

SWITCH = "ANOMALIB_UNIAS_AUTOLOAD"
"""Environment variable: any value other than ``1`` switches the registration off, as for torch's own variable."""

NAMES: dict[str, tuple[str, ...]] = {
    "UniAS": ("anomalib.models", "anomalib.models.image"),
    "UniASLite": ("anomalib.models", "anomalib.models.image"),
    "UniAD": ("anomalib.models", "anomalib.models.image"),
    "UniADLite": ("anomalib.models", "anomalib.models.image"),
    "ReContrast": ("anomalib.models", "anomalib.models.image"),
    "ReContrastLite": ("anomalib.models", "anomalib.models.image"),
    "UnifiedDataModule": ("anomalib.data",),
    "SyntheticProducts": ("anomalib.data",),
    "OrderPreservingPostProcessor": ("anomalib.post_processing",),
    "CadaPostProcessor": ("anomalib.post_processing",),
    "UnifiedEvaluator": ("anomalib.metrics",),
}
"""Public name of ``anomalib_unias`` -> modules of anomalib that offer it too."""


def autoload() -> None:
    """Register our names in anomalib, now or when anomalib has been imported.

    Called by torch at the end of ``import torch``. Imports neither anomalib nor any other module of this package
    before the user imports anomalib, never raises, and does nothing when called again.
    """
    if os.environ.get(SWITCH, "1") != "1" or not _pending:
        return
    with _only_logged("be registered in anomalib"):
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        _register()


def _add_name(name: str, modules: tuple[str, ...]) -> None:
    """Set the public ``name`` of this package on ``modules`` of anomalib."""
    value = getattr(import_module("anomalib_unias"), name)
    for module in (sys.modules[module] for module in modules):
        setattr(module, name, value)
        module.__all__.append(name)


def _allow_class_paths() -> None:
    """Let ``get_model({"class_path": "anomalib_unias.X"})`` pass."""
    sys.modules["anomalib.models"].ALLOWED_MODULES.add("anomalib_unias")


def _register_backbones() -> None:
    """Add our backbones to timm, for all models of anomalib."""
    import_module("anomalib_unias.backbones").register_backbones()


# Tasks still to do: name (for the log), the modules of anomalib that it needs, and its function.
_pending: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "allow class paths": (("anomalib.models",), _allow_class_paths),
    "register backbones": (("anomalib.models",), _register_backbones),
    **{f"register {name}": (modules, partial(_add_name, name, modules)) for name, modules in NAMES.items()},
}


def _register() -> None:
    """Run the tasks that are possible now, or listen for the end of an import that is still running."""
    if (unfinished := _unfinished_import()) is not None:
        _listen_to(sys.modules[unfinished.rpartition(".")[0]])
        return
    for task, (modules, _) in list(_pending.items()):
        # A task can import more of anomalib, which calls this function again: remove it from the list before it starts.
        if all(module in sys.modules for module in modules) and (entry := _pending.pop(task, None)):
            with _only_logged(task):
                entry[1]()
    if not _pending:
        _stop_listening()


def _unfinished_import() -> str | None:
    """Name of the outermost module of anomalib or of this package that is being imported right now, if any.

    Python itself uses ``_initializing`` to say "partially initialized module" in its error messages.
    """
    for name in list(sys.modules):
        if name.startswith(("anomalib.", "anomalib_unias.")):
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                return name
    return None


class _Package(ModuleType):
    """A package that reports each sub-module whose import has finished."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if isinstance(value, ModuleType):
            with _only_logged("be registered in anomalib"):
                _register()


class _AnomalibFinder:
    """Finds no module; notices the next import of a sub-module of anomalib, when the package itself exists."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """See ``importlib.abc.MetaPathFinder``."""
        if fullname.startswith("anomalib."):
            _listen_to(sys.modules["anomalib"])


_FINDER = _AnomalibFinder()


def _listen_to(package: ModuleType) -> None:
    if type(package) is ModuleType:
        package.__class__ = _Package


def _stop_listening() -> None:
    """Restore the import system."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    packages: list[ModuleType] = [module for module in list(sys.modules.values()) if type(module) is _Package]
    for package in packages:
        package.__class__ = ModuleType


@contextmanager
def _only_logged(task: str) -> Iterator[None]:
    """Log an error instead of raising it: ``import torch`` must work for everyone who has this package installed."""
    try:
        yield
    except Exception as error:  # an error in here must not break the running import
        logger.warning("anomalib_unias could not %s: %s: %s", task, type(error).__name__, error)
        logger.debug("Traceback of the warning above", exc_info=True)
