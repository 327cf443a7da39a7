"""CADA: one threshold for all products, for any anomalib model with anomaly maps.

Paper: Absolute-Unified Multi-Class Anomaly Detection via Class-Agnostic Distribution Alignment,
https://arxiv.org/abs/2404.00724.
"""

from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from .calibrated import CalibratedPostProcessor
from .calibration import Calibration, ScoreSource
from .calibration_data import CalibrationData
from .calibration_run import CalibrationRun
from .fitting import OPTIONS, CalibrationOptions, Predictor, Targets, Variant, fit_calibration
from .published import Statistics


class CadaPostProcessor(CalibratedPostProcessor):
    """Calibrates scores so that one threshold fits all products, and finds it without defective images.

    Every product has its own level of normal scores. By default, images are clustered by their features, without
    labels, and scores are divided by the level of their cluster, image scores by its spread too, see
    :class:`~.levels.LevelCalibration`; how far maps are calibrated is chosen on synthetic defects. The calibrations of
    the paper predict the mean ``u`` and the maximum ``g`` that the map would have if the image were normal, and the map
    ``s`` becomes ``(s - u) / (g - u)``.

    It fits itself at the end of the model's training, before thresholds and normalisation are computed. From then on it
    acts inside the model: validation, test, prediction and exports are calibrated.

    Args:
        variant (Variant): ``"cada"`` needs no categories, ``"cada_b"`` needs them in training, ``"cada_a"`` also in
            test. Defaults to ``"cada"``.
        predictor (Predictor): How ``cada`` predicts: ``"clusters"`` by the cluster of the image, ``"regressor"`` by the
            network of the paper. Defaults to ``"clusters"``.
        map_power (float | None): With ``clusters``: how far maps are calibrated, from 0 (not at all) to 1. ``None``
            takes the power with the highest pixel AP on synthetic defects. Defaults to ``None``.
        score_power (float): With ``clusters``: how far image scores are calibrated, from 0 to 1. Defaults to ``1.0``.
        statistics (Statistics): With the calibrations of the paper: ``"max"`` predicts mean and maximum of the map,
            ``"std"`` mean and standard deviation sigma, with ``g = u + 3 sigma``. Defaults to ``"max"``.
        targets (Targets | None): Images whose statistics are the targets: the ``"training"`` images as in the paper,
            normal images that are ``"held_out"`` from the training of the model, or the normal ``"validation"`` images.
            ``"leave_one_out"`` takes the training images too, but scores each of them as if the model had not seen
            it, which only UniAS with prototypes can. Defaults to ``None``: ``"leave_one_out"`` if the model can,
            otherwise ``"held_out"``.
        held_out_fraction (float): Share of the normal training images of each category that is held out.
            Defaults to ``0.1``.
        image_score (ScoreSource | None): Image score: mean of the ``"top"`` 1 % of the calibrated map, its ``"max"``,
            or the score of the ``"model"``, calibrated separately (with the calibrations of the paper: like the map).
            ``None`` is ``"model"`` with ``clusters``, otherwise ``"top"``. Defaults to ``None``.
        feature_layer (str | None): Sub-module of the model's ``model`` that encodes the image. Defaults to ``None``:
            the known encoder of the model, see :data:`~.encoders.FEATURE_LAYERS`.
        convolutions (int): Convolutions of the regressor or classifier, 0 to 2. Defaults to ``1``.
        linear_layers (int): Its linear layers, 1 to 3. Defaults to ``2``.
        hidden_dim (int): Its hidden width. Defaults to ``256``.
        dropout (float): Its dropout. Defaults to ``0.25``.
        learning_rate (float): Its learning rate (SGD). Defaults to ``5e-2``.
        max_steps (int): Maximum number of its training steps; it stops earlier when the loss no longer falls. Defaults
            to ``5000``.
        batch_size (int): Its batch size. Defaults to ``16``.
        report_out_of_range (bool): Whether exports have a fifth output ``out_of_range``, which flags images that are
            unlike all training images. OpenVINO's Model API knows four and rejects five. Defaults to ``False``.
        seed (int): Seed of the held-out images, the synthetic defects and the network. Defaults to ``0``.
        enable_normalization (bool): See :class:`OrderPreservingPostProcessor`, also for the arguments below. Defaults
            to ``True``.
        enable_thresholding (bool): Defaults to ``True``.
        enable_threshold_matching (bool): Defaults to ``True``.
        image_sensitivity (float): Defaults to ``0.5``.
        pixel_sensitivity (float): Defaults to ``0.5``.
        threshold (Literal["f1", "false_alarm_rate"]): ``false_alarm_rate`` uses the images of ``targets``, or the
            validation images if these are the ``"training"`` images. Defaults to ``"false_alarm_rate"``.
        false_alarm_rate (float): Share of the normal images. Defaults to ``0.01``.
        pixel_false_alarm_rate (float): Share of the pixels of normal images. Defaults to ``0.01``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(pre_trained=False, post_processor=CadaPostProcessor())
        >>> model.post_processor.calibration is None
        True
    """

    validates_after_training = True
    """Tells :class:`~anomalib_unias.callbacks.RunLength` that a validation before the calibration is not needed."""

    def __init__(
        self,
        variant: Variant = "cada",
        predictor: Predictor = "clusters",
        map_power: float | None = None,
        score_power: float = 1.0,
        statistics: Statistics = "max",
        targets: Targets | None = None,
        held_out_fraction: float = 0.1,
        image_score: ScoreSource | None = None,
        feature_layer: str | None = None,
        convolutions: int = 1,
        linear_layers: int = 2,
        hidden_dim: int = 256,
        dropout: float = 0.25,
        learning_rate: float = 5e-2,
        max_steps: int = 5000,
        batch_size: int = 16,
        report_out_of_range: bool = False,
        seed: int = 0,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        threshold: Literal["f1", "false_alarm_rate"] = "false_alarm_rate",
        false_alarm_rate: float = 0.01,
        pixel_false_alarm_rate: float = 0.01,
    ) -> None:
        self.targets = targets  # the threshold metrics depend on it
        super().__init__(
            image_score=image_score,
            feature_layer=feature_layer,
            report_out_of_range=report_out_of_range,
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
            threshold=threshold,
            false_alarm_rate=false_alarm_rate,
            pixel_false_alarm_rate=pixel_false_alarm_rate,
        )
        self.variant = variant
        self.predictor = predictor
        self.map_power = map_power
        self.score_power = score_power
        self.statistics = statistics
        self.held_out_fraction = held_out_fraction
        self.convolutions = convolutions
        self.linear_layers = linear_layers
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.seed = seed
        self.options()  # checks them

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, *OPTIONS)

    @property
    def _validation_counts(self) -> bool:
        return self.targets == "training"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the hooks to the model and, before training, hold images out.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model.
            stage (str): ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            CalibrationDataError: If the targets need a datamodule and there is none, if they need validation images
                and these are the test images, or if they need a model that can leave images out and several images.
            HeldOutError: If a category has a single normal image and some are to be held out.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            CalibrationRun(self, trainer).prepare()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the calibration when a run is resumed: the model is going to change.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model, restored if a run is resumed.

        Raises:
            ValueError: If images are to be left out, and the prototypes of a resumed model do not know theirs.
        """
        del pl_module
        CalibrationRun(self, trainer).check_resumed()
        self.calibration = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate, validate again, and complete the checkpoints.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The trained model.

        Raises:
            CalibrationDataError: If there are no normal images, or the model has no finite anomaly maps.
        """
        del pl_module
        CalibrationRun(self, trainer).calibrate()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate the model when a resumed run had completed its training but was stopped before the calibration.

        Lightning ends such a resumed run without calling ``on_train_end``.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The trained model.
        """
        if self.calibration is None:
            self.on_train_end(trainer, pl_module)

    def fit(self, data: CalibrationData) -> Calibration:
        """Fit a calibration with the options of this post-processor.

        Args:
            data (CalibrationData): Features, statistics and scores of normal images.

        Returns:
            Calibration: The fitted calibration.
        """
        return fit_calibration(data, self.options())

    def options(self) -> CalibrationOptions:
        """Get the options of the calibration.

        Returns:
            CalibrationOptions: Options from the arguments of this post-processor.

        Raises:
            ValueError: If one of them is out of its range.
        """
        return CalibrationOptions(**{name: getattr(self, name) for name in OPTIONS})
