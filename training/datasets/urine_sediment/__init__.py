"""Drawn microscopy: brightfield fields of view of urine sediment, with exact masks; experiments
and backend may import it.

Each particle is drawn as what light meets: an optical thickness (phase, in radians) and an
absorption. The microscope then makes the picture: the wave behind the particle is carried to
the plane in focus, cut by the objective's aperture and blurred by the condenser's. Dark rims,
bright halos and rings come from that, as they do at a bench, and the mask is the particle's
own outline. Two laboratories draw the same kinds of particle with different microscopes.

Anything above ``training.quality`` may import this package, by the names below.
"""

from training.datasets.urine_sediment.field import Field, draw_field, write_folder
from training.datasets.urine_sediment.microscope import LABORATORIES
from training.datasets.urine_sediment.specimen import CLASSES

__all__ = ["CLASSES", "LABORATORIES", "Field", "draw_field", "write_folder"]
