"""``vision``: the API from a terminal, on the Mac of the stack or anywhere in its network.

Rules: it speaks HTTP to the gateway and knows nothing that the API doesn't tell; what works on the
machine of the stack only (pull, rm, doctor, config check) says so elsewhere. What is shown is made by
pure functions (``phrases``, ``names``, ``terminal``); commands fetch and print. Answers go to stdout,
progress and errors to stderr. What ``hostctl`` does is called, not done again.
"""
