"""HTTP/1.1 on a connection that was accepted: from bytes to requests, resources and framed answers."""
