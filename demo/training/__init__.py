"""How the demo checkpoints are made: data, PyTorch twins of the libraries' modules, training.

Two packages that share nothing but the shapes world: ``vlm`` (the two that see) and ``flux`` (the one
that draws). Training needs torch, which the product never does; see requirements/train.txt.
"""
