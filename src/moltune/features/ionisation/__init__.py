"""Ionisation: pKa of each site, charges at a pH, and both as features of a molecule.

The networks are MolGpKa's (Pan et al. 2021, J. Chem. Inf. Model. 61, 3159), under the MIT licence in
``weights/LICENSE``; ``recipes/ionisation/convert.py`` made the files from pkasso 0.6.2.
"""

from moltune.features.ionisation.block import IONISATION_NAMES, ionisation_block
from moltune.features.ionisation.sites import Ionisation, Site, draw_svg, ionisation, ionise, predict_pka

__all__ = [
    "IONISATION_NAMES",
    "Ionisation",
    "Site",
    "draw_svg",
    "ionisation",
    "ionisation_block",
    "ionise",
    "predict_pka",
]
