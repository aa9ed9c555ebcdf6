"""``make rehearsal``: the shipped settings from an empty cache, on models of the published layouts.

Rules: weights are random and exist only while they are sent (``synthetic``); tokenizers come from
public packages at run time (``tokenizers``); nothing of either is committed. A test server plays the
Hub under the very ids of config.yaml and config.16gb.yaml (``hub``); the stack is the real one
(``stage``). Each scenario is independent, has its own cache, and says PASS or FAIL (``scenarios_*``);
``report`` writes docs/dev/rehearsal.md. What random weights answer is noise: only files, names, shapes,
tokenizers, templates, sizes and words of errors are examined.
"""
