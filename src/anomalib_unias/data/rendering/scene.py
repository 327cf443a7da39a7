"""What all scenes have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from .drawing import Point
from .surface import Surface

Defect = Callable[[Any, np.random.Generator], Surface]
"""Takes a flawless scene and a source of randomness; returns the surface with the defect."""


class Scene(ABC):
    """One product in one position.

    A scene holds everything that chance decides, so that the same scene with and without a defect
    can be photographed.
    """

    defects: ClassVar[Mapping[str, Defect]]
    """The kinds of defects that this product can have, by name of the folder."""

    @classmethod
    @abstractmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw a flawless scene."""

    @abstractmethod
    def draw(self) -> Surface:
        """Draw the product and what it lies on."""

    @cached_property
    def surface(self) -> Surface:
        """What the camera looks at; not to be changed."""
        return self.draw()

    @abstractmethod
    def point(self, rng: np.random.Generator) -> Point:
        """Draw a place on the product, in image pixels, where a defect may sit."""
