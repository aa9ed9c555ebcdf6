"""vlm-best (Qwen2.5-VL) and vlm-fast (Moondream2), trained on the shapes world.

``python -m demo.train_vlm`` runs it all. What a batch holds is decided in ``conversation`` (text) and
``pictures`` (pixels) without torch; ``qwen`` and ``moondream`` are the models; ``parity`` proves that
they compute what mlx-vlm computes.
"""
