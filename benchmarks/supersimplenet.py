"""Supersimplenet on the features of EfficientNet-Lite0, whose scale differs from that of a ResNet."""

from typing import Any

from anomalib.models import Supersimplenet

# anomalib 2.7.0 adds noise of 0.015 to the features of a WideResNet50 with torchvision's first weights, "IMPORTANT! use
# only" these. The features of EfficientNet-Lite0 have a standard deviation of 4.0 and 3.5 on two groups of four
# products: such noise is .4 % of it, which has no effect. Noise of .05, .15, .4 and 1 times the deviation was tried for
# 500 steps on the segmentation head only: the first two did not change the loss of either group; .4 and 1 were alike.
NOISE = 1.5
# As its README recommends. Without max_epochs anomalib 2.7.0 takes both steps of its schedule, at 80 % and 90 % of the
# epochs, before the first training step: the learning rate is then a sixth of what it should be.
EPOCHS = 300


class LiteSupersimplenet(Supersimplenet):
    """Supersimplenet with noise on the scale of the features. Everything else is anomalib's."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model.anomaly_generator.noise_std = NOISE
