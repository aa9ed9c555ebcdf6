"""`make test-live`: tests that need a container engine, a service manager or a browser, or are slow."""
