"""Makes the stock anomalib know the names of this package."""


def autoload() -> None:
    """Entry point in the group ``torch.backends``; called at the end of ``import torch``."""
