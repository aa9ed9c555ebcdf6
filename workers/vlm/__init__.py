"""The vision-language worker: routes, jobs, scheduler, runner, batch, sampler and caches.

``architectures`` has the preprocessing of each model architecture.
"""
