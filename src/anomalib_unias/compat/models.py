"""Models of anomalib by their names."""

from anomalib.models import _get_model_class_by_name
from anomalib.models.components import AnomalibModule


def model_class(name: str) -> type[AnomalibModule]:
    """Find the class of a model.

    anomalib 2.7.0 offers only ``get_model``, which builds the model.

    Args:
        name (str): Name, such as ``"Padim"`` or ``"efficient_ad"``.

    Returns:
        type[AnomalibModule]: The class.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return _get_model_class_by_name(name)
