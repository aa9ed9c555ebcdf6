"""The workers: one process per model alias, speaking OpenAI's shapes on loopback.

``app`` is HTTP, ``thread`` owns the model, ``engine`` is the seam between them; ``vlm`` and ``image``
are the engines. Rules: one thread loads and runs a model (MLX streams are thread-local); the event loop
never computes; nothing heavy is imported before the socket answers; no mock ever stands in for a model.
"""
