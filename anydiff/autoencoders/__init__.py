"""Autoencoders: networks that give the items of a space a latent in another space, and back."""

from anydiff.autoencoders.autoencoder import Autoencoder, Autoencoding, Posterior
from anydiff.autoencoders.codebook import Codebook, Quantized
from anydiff.autoencoders.convolutional import Convolutional
from anydiff.autoencoders.foreign_autoencoders import FromAutoencoder
from anydiff.autoencoders.rowwise import Rowwise

__all__ = [
    "Autoencoder", "Autoencoding", "Codebook", "Convolutional", "FromAutoencoder", "Posterior",
    "Quantized", "Rowwise",
]  # fmt: skip
