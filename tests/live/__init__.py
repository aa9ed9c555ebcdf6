"""What needs a container engine or a service manager: `make test-live`."""
