"""``vision``: the API from a terminal, on the stack's machine or anywhere in its network.

Rules: commands use only the gateway's HTTP API. The local commands (pull, rm, doctor, config check)
call ``hostctl`` and refuse to run on another machine. Pure functions (``formatting``, ``image_files``,
``terminal``) make the output; commands fetch and print. Results go to stdout, progress and errors to
stderr.
"""
