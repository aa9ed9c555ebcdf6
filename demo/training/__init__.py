"""Training of the demo checkpoints: data, PyTorch twins of the libraries' modules, training loops.

Two packages that share nothing but the shapes world: ``vlm`` (both vision-language models) and
``flux`` (the image model). Training needs torch, which the product never does; see
requirements/train.txt.
"""
