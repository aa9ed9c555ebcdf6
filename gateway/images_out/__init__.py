"""Images that go out as URLs: the store and the links to it."""
