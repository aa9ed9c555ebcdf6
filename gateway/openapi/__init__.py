"""The description of the public API (OpenAPI 3.1): ``openapi.yaml``, ``/openapi.json`` and ``/docs``.

Rules: FastAPI describes the routes from their code and the models of ``contracts`` describe the
bodies. What all routes share (errors, headers, keys) is in one table here, so that a new route gets it
automatically. Nothing is described twice, and tests compare the description with the gateway's
behaviour.
"""
