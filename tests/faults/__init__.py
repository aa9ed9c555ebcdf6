"""The fault suite: a stack of real processes, one fault at a time, the same checks after each."""
