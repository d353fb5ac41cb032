"""The process: sockets from systemd, the accept loop, who may connect, reloads, the journal."""
