"""What needs a container engine or a service manager, or takes minutes: `make test-live`."""
