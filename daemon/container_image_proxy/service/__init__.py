"""The socket side: from an accepted connection to a framed answer."""
