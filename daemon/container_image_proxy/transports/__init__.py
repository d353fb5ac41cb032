"""Where an image's bytes come from: one module a transport, ``table`` the one list of them."""
