"""Images that leave as URLs: the store and its links."""
