"""The engine on Ray Serve: the same answers, from many devices and machines."""
