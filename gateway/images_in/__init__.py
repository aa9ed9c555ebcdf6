"""Images that arrive with a request: checks, URLs, fetching."""
