"""skopeo's image proxy protocol: JSON messages over SOCK_SEQPACKET, content through pipes that are passed along."""
