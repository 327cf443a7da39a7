"""Runs a trained model without calibration on the images that a calibration is fitted to."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, cast

import torch
from anomalib.data import AnomalibDataset, ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_unias.compat.export import preserved_modes
from anomalib_unias.data.synthetic_defects import SyntheticDefect, SyntheticDefects

from .calibration_data import CalibrationData, ModelOutput, at_most, collect
from .clusters import ImageClusters
from .encoders import FeatureTap
from .selection import Examples, small

# Number of normal images, and of images with defects; enough to compare map powers.
_EXAMPLES = 256


class ModelRuns:
    """Runs one model at the end of its training, with progress bars.

    Args:
        trainer (Trainer): Trainer at the end of training.
        module (AnomalibModule): The model.
        tap (FeatureTap): Hook in the encoder of the model.
        leave_one_out (bool): Whether normal images are scored as if the model had not been trained on them. The model
            needs the method ``forward_left_out``, see :class:`~anomalib_unias.models.unias.torch_model.UniASModel`.
            Defaults to ``False``.
    """

    def __init__(
        self, trainer: Trainer, module: AnomalibModule, tap: FeatureTap, *, leave_one_out: bool = False
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._tap = tap
        self._leave_one_out = leave_one_out

    def collect(self, images: Mapping[str, AnomalibDataset], *, keep_maps: bool, keep_pixels: bool) -> CalibrationData:
        """Run the model on the normal images of some data sets; the processes of a run share the work.

        Args:
            images (Mapping[str, AnomalibDataset]): Data sets by name. All but ``"training"`` are unseen, or all with
                ``leave_one_out``.
            keep_maps (bool): Whether to keep the deepest feature maps.
            keep_pixels (bool): Whether to keep pixels of the anomaly maps.

        Returns:
            CalibrationData: Data of all normal images.
        """
        with preserved_modes(self._module), self._progress() as progress:
            self._module.eval()
            parts = [
                collect(
                    dataset,
                    self._loader,
                    partial(self._run, leave_out=self._leave_one_out),
                    unseen=self._leave_one_out or name != "training",
                    keep_maps=keep_maps,
                    keep_pixels=keep_pixels,
                    rank=self._trainer.global_rank,
                    processes=self._trainer.world_size,
                    progress=partial(progress.track, description=f"CADA: {name} images"),
                )
                for name, dataset in images.items()
            ]
        return reduce(add, parts)

    def examples(
        self, normal: AnomalibDataset, source: AnomalibDataset, clusters: ImageClusters, seed: int
    ) -> Examples:
        """Run the model on normal images and on synthetic defects.

        Args:
            normal (AnomalibDataset): Normal images, of which at most as many are used as there are defects.
            source (AnomalibDataset): Images that synthetic defects are drawn on.
            clusters (ImageClusters): Assigns images to clusters.
            seed (int): Seed of the selection and the defects.

        Returns:
            Examples: Normal and defective examples.
        """
        found = []
        for batch, (features, output) in self.outputs(at_most(_EXAMPLES, normal, seed), "normal images"):
            height, width = cast("Tensor", output.anomaly_map).shape[-2:]
            found.append(_example(batch, features, output, clusters))
        defects = SyntheticDefects(source, (height, width), _EXAMPLES, seed)
        loader: Any = DataLoader(defects, self._loader.batch_size, collate_fn=_as_batch)
        for batch, (features, output) in self._outputs(loader, "synthetic defects", leave_out=False):
            found.append(_example(batch, features, output, clusters))
        return reduce(add, found)

    def outputs(self, images: AnomalibDataset, name: str) -> Iterator[tuple[ImageBatch, ModelOutput]]:
        """Run the model on images; every process runs on all of them.

        Args:
            images (AnomalibDataset): Images.
            name (str): Their name in the progress bar.

        Yields:
            tuple[ImageBatch, ModelOutput]: Batches, features and uncalibrated outputs.
        """
        loader = DataLoader(
            images,
            self._loader.batch_size,
            num_workers=self._loader.num_workers,
            collate_fn=self._loader.collate_fn,
        )
        yield from self._outputs(loader, name, leave_out=self._leave_one_out)

    def _outputs(self, loader: DataLoader, name: str, *, leave_out: bool) -> Iterator[tuple[ImageBatch, ModelOutput]]:
        with preserved_modes(self._module), self._progress() as progress:
            self._module.eval()
            for batch in progress.track(loader, description=f"CADA: {name}"):
                yield batch, self._run(batch, leave_out=leave_out)

    def _run(self, batch: ImageBatch, *, leave_out: bool) -> ModelOutput:
        """Get features and uncalibrated output for a batch."""
        model: Any = self._module.model
        batch = self._trainer.strategy.batch_to_device(batch)
        images = cast("Tensor", batch.image)
        pre_processor = self._module.pre_processor
        if isinstance(pre_processor, PreProcessor) and pre_processor.transform is not None:
            images = pre_processor.transform(images)
        with torch.no_grad(), self._trainer.precision_plugin.val_step_context():
            self._tap.clear()
            # forward() instead of a call of the model, whose hooks would take the features.
            output = model.forward_left_out(images, batch.image_path) if leave_out else model.forward(images)
        return self._tap.take(len(images)), output

    @property
    def _loader(self) -> DataLoader:
        return cast("DataLoader", self._trainer.train_dataloader)

    def _progress(self) -> Progress:
        shown = self._trainer.is_global_zero and self._trainer.progress_bar_callback is not None
        return Progress(disable=not shown, transient=True)


def _example(
    batch: ImageBatch, features: Sequence[Tensor], output: InferenceBatch, clusters: ImageClusters
) -> Examples:
    maps = cast("Tensor", output.anomaly_map).float().cpu()
    maps = maps.reshape(len(maps), *maps.shape[-2:])
    masks = torch.zeros_like(maps) if batch.gt_mask is None else batch.gt_mask
    return Examples(*small(maps, masks), clusters(features).cluster.cpu())


def _as_batch(defects: list[SyntheticDefect]) -> ImageBatch:
    return ImageBatch(
        image=torch.stack([defect.image for defect in defects]),
        gt_mask=torch.stack([defect.mask for defect in defects]),
    )
