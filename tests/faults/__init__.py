"""The fault suite: a stack of real processes, one fault per stack, the same checks after each."""
