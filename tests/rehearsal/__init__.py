"""``make rehearsal``: the shipped settings from an empty cache, on models of the published layouts.

Rules: weights are random and are generated only while they are sent (``synthetic``); tokenizers come
from public packages at run time (``tokenizers``); neither is committed. A test server acts as the Hub
and serves the repositories of config.yaml and config.16gb.yaml under their real ids (``hub``); the
stack is the real one (``stage``). Each scenario is independent, has its own cache and ends with PASS or
FAIL (``scenarios_*``); ``report`` writes docs/dev/rehearsal.md. Random weights generate noise, so the
scenarios examine only files, names, shapes, tokenizers, templates, sizes and error messages.
"""
