"""Networks to plug in. Each is called ``net(x_t, t, ...)`` and returns something shaped like x_t."""

from anydiff.denoisers.birnn import BiRNN
from anydiff.denoisers.egnn import EGNN
from anydiff.denoisers.pairnet import PairNet
from anydiff.denoisers.transformer import Transformer
from anydiff.denoisers.unet import UNet

__all__ = ["EGNN", "BiRNN", "PairNet", "Transformer", "UNet"]
