"""The workers: one process per model alias, speaking OpenAI's API on loopback.

``serving`` is HTTP and the model thread; ``engine`` is the seam to the engines in ``vlm`` and
``image``; ``hub`` finds and downloads model files. Rules: one thread loads and runs a model (MLX
streams are thread-local); the event loop never computes; nothing heavy is imported before the socket
responds; no mock ever replaces a model.
"""
