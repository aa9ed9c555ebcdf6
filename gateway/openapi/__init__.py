"""The description of the public API (OpenAPI 3.1): ``openapi.yaml``, ``/openapi.json`` and ``/docs``.

Rules: FastAPI describes the routes from their code and the models of ``contracts`` describe the
bodies. One table here holds the parts that all routes share (errors, headers, keys), so that a new
route gets them automatically. Nothing is described twice, and tests compare the description with the
gateway's behaviour.
"""
