"""Images that come in with a request: checks, URLs, fetching."""
