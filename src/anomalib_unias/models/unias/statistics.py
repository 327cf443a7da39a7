"""Scales, prototypes and initial weights that a model takes from training images before its first step."""

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from anomalib_unias.models.components import COMPONENT_BATCHES

from .components import PrototypeSelection, image_numbers
from .components.principal_components import start_from_principal_components

if TYPE_CHECKING:
    from .lightning_model import UniAS

_SCALING_BATCHES = 32


def learn_statistics(module: "UniAS") -> None:
    """Fit the feature scales, choose prototypes, and initialise with principal components, each of them once.

    Args:
        module (UniAS): A model at the start of its training; changed in place.
    """
    scaler, prototypes, trainer = module.model.scaler, module.model.prototypes, module.trainer
    fits_scaler = scaler is not None and not scaler.fitted
    fits_prototypes = prototypes is not None and not prototypes.fitted
    starts_from_components = module.principal_component_start and trainer.global_step == 0
    if not (fits_scaler or fits_prototypes or starts_from_components):
        return
    loader: Any = trainer.train_dataloader or ()
    sums = [torch.zeros(count, device=module.device) for count in module.model.backbone.channels]
    batches, examples, selection = 0, [], None
    if prototypes is not None and fits_prototypes:
        selection = PrototypeSelection(prototypes, len(loader) * trainer.world_size)
    with torch.random.fork_rng(), torch.no_grad():
        for batch in islice(loader, None if fits_prototypes else _SCALING_BATCHES):
            features = module.features_of_loaded(batch)
            for total, feature in zip(sums, features, strict=True):
                total += feature.square().mean(dim=(0, 2, 3))
            if batches < COMPONENT_BATCHES:
                examples.append(features)
            if selection is not None:
                selection.first_pass(features)
            batches += 1
        if scaler is not None and fits_scaler:
            means = (trainer.strategy.reduce(total / batches, reduce_op="mean") for total in sums)
            scaler.fit([torch.as_tensor(mean) for mean in means])
        if prototypes is not None and selection is not None:
            selection.end_first_pass()
            for batch in loader:
                features = module.features_of_loaded(batch)
                selection.second_pass(features, image_numbers(batch.image_path))
            selection.end_second_pass()
            # Each process has started the selection from a different patch.
            prototypes.load_state_dict(trainer.strategy.broadcast(prototypes.state_dict()))
        if starts_from_components:
            inputs, targets = module.model.decoder_inputs([torch.cat(level) for level in zip(*examples, strict=True)])
            start_from_principal_components(module.model.decoder, inputs, targets)
            # Each process has seen different images.
            state = trainer.strategy.broadcast(module.model.decoder.state_dict())
            module.model.decoder.load_state_dict(state)
