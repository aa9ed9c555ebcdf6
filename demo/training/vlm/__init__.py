"""vlm-best (Qwen2.5-VL) and vlm-fast (Moondream2), trained on the shapes world.

``python -m demo.train_vlm`` runs it all. ``conversation`` (text) and ``images`` (pixels) decide the
content of a batch without torch; ``qwen`` and ``moondream`` are the models; ``parity`` shows that
they compute the same as mlx-vlm.
"""
