"""image-gen (FLUX.1), trained to generate images of the shapes world.

``python -m demo.train_flux`` runs it all: the VAE first, then the flow together with both text
encoders, then a second pass of each. ``specs`` explains why four steps are enough without
distillation; ``parity`` shows that the PyTorch twins compute the same as mflux.
"""
