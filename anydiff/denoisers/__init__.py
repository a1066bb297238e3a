"""Networks that predict what is noise in x_t: one folder for each kind of space.

`configured` is for networks of one's own: it keeps the constructor's arguments for `anydiff.save`.
"""

from anydiff.denoisers.completing import Completing
from anydiff.denoisers.configured import configured
from anydiff.denoisers.energy import Energy
from anydiff.denoisers.gated import Gated
from anydiff.denoisers.points.egnn import EGNN
from anydiff.denoisers.points.harmonic import Harmonic
from anydiff.denoisers.points.pairnet import PairNet
from anydiff.denoisers.sequences.birnn import BiRNN
from anydiff.denoisers.sequences.transformer import Transformer
from anydiff.denoisers.unet.network import UNet
from anydiff.denoisers.words import TextEncoder, Worded

__all__ = [
    "EGNN",
    "BiRNN",
    "Completing",
    "Energy",
    "Gated",
    "Harmonic",
    "PairNet",
    "TextEncoder",
    "Transformer",
    "UNet",
    "Worded",
    "configured",
]
