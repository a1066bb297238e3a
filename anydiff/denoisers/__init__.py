"""Networks that say what is noise: a folder for each kind of space."""

from anydiff.denoisers.points.egnn import EGNN
from anydiff.denoisers.points.pairnet import PairNet
from anydiff.denoisers.sequences.birnn import BiRNN
from anydiff.denoisers.sequences.transformer import Transformer
from anydiff.denoisers.unet.network import UNet

__all__ = ["EGNN", "BiRNN", "PairNet", "Transformer", "UNet"]
