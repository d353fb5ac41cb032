"""The only code that speaks HTTP outwards. It fetches what it is told to and vouches for nothing but the transfer.

Doors: ``client`` (:class:`RegistryClient`), ``endpoints`` (:class:`Repository`), ``signatures.storage`` (what was
signed, where), ``auth.keychain`` and ``http.proxies`` (credentials and proxies, read once for a configuration), and
``http.service`` (an HTTP service that is no registry). An import-linter contract shuts the rest. Names are not exported
here: that would load the HTTP library at the start.
"""
