"""HTTP towards servers, of whatever kind: connections, TLS, proxies, redirects. Knows no registry API."""
