"""A model that trains in no time, for what CADA does around it."""

from pathlib import Path

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Resize

from anomalib_unias import CadaPostProcessor, UnifiedDataModule

CATEGORIES = {"bright": (130, 25.0), "dark": (60, 2.0)}
"""Brightness and noise of two products: the noisy one has high scores though nothing is wrong."""


class DetectorModel(nn.Module):
    """Scores a pixel by its distance from the mean colour of the image, times a weight that is "learned"."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 6, kernel_size=4, stride=4)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            self.encoder.weight.copy_(torch.randn(self.encoder.weight.shape, generator=generator))
            self.encoder.bias.zero_()
        self.encoder.requires_grad_(False)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> InferenceBatch | Tensor:
        features = self.encoder(images)
        if self.training:
            return 0.1 * self.weight * features.square().mean().clamp(max=1)
        anomaly_map = (images - images.mean(dim=(2, 3), keepdim=True)).abs().mean(dim=1, keepdim=True) * self.weight
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)


class Detector(AnomalibModule):
    def __init__(self, pre_processor=True, post_processor=True, evaluator=False, visualizer=False, rate: float = 0.1):
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.rate = rate
        self.model = DetectorModel()

    @staticmethod
    def configure_pre_processor(image_size=None):
        return PreProcessor(transform=Compose([Resize(image_size or (32, 32), antialias=True)]))

    def training_step(self, batch, *args, **kwargs):
        del args, kwargs
        return {"loss": self.model(batch.image)}

    def validation_step(self, batch, *args, **kwargs):
        del args, kwargs
        self.log("weight", float(self.model.weight), batch_size=len(batch.image))
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self):
        return torch.optim.SGD([self.model.weight], lr=self.rate)

    @property
    def trainer_arguments(self):
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS


def write_images(root: Path, train: int = 9, good: int = 4, defective: int = 4, size: int = 32) -> Path:
    rng = np.random.default_rng(0)
    for category, (brightness, noise) in CATEGORIES.items():
        splits = {"train/good": train, "test/good": good, "test/spot": defective}
        for split, count in splits.items():
            for i in range(count):
                pixels = rng.normal(brightness, noise, size=(size, size, 3))
                if split == "test/spot":
                    pixels[8:14, 8:14] += 3.5 * noise
                path = root / category / split / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
                if split == "test/spot":
                    mask = np.zeros((size, size), np.uint8)
                    mask[8:14, 8:14] = 255
                    path = root / category / "ground_truth" / "spot" / f"{i:03}_mask.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(path)
    return root


def make_data(root: Path, **arguments) -> UnifiedDataModule:
    defaults = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0, "seed": 0}
    return UnifiedDataModule("MVTecAD", sorted(CATEGORIES), root=root, **(defaults | arguments))


def make_detector(rate: float = 0.1, **arguments) -> Detector:
    """With a given power: to choose it (``map_power=None``) takes hundreds of synthetic defects through the model."""
    post_processor = CadaPostProcessor(**({"feature_layer": "encoder", "map_power": 1.0} | arguments))
    return Detector(post_processor=post_processor, rate=rate)


def make_engine(folder: Path, callbacks: list[Callback] | None = None, **arguments) -> Engine:
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Engine(callbacks=callbacks, default_root_dir=folder, **(defaults | arguments))
