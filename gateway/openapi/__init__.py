"""The description of the public API (OpenAPI 3.1): ``openapi.yaml``, ``/openapi.json`` and ``/docs``.

Rules: FastAPI describes the routes from their code, the models of ``contracts`` the bodies; what is the
same for all routes (errors, headers, keys) stands in one table here, so that a new route has it by
itself. Nothing is described twice, and tests hold the description to what the gateway does.
"""
