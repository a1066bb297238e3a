"""The U-Net, for images and signals."""
