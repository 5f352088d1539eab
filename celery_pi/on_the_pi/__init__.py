"""Programs that are sent to the Pi and run there once, with its own Python."""
