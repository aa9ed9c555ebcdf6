"""The vision-language worker: routes, jobs, scheduler, batch, sampler, caches. ``architectures`` holds
the models.
"""
